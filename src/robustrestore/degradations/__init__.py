"""The shelf of degradations."""

from .blur import Blur as Blur
from .display import POLED as POLED
from .display import TOLED as TOLED
from .gaussian_noise import GaussianNoise as GaussianNoise
from .jpeg import Jpeg as Jpeg
from .pseudo_hdr import pseudo_hdr as pseudo_hdr
from .psf import PSF as PSF
from .psf import StoredPSF as StoredPSF
from .rain import Rain as Rain
from .sensor_noise import SensorNoise as SensorNoise
from .under_display import UnderDisplay as UnderDisplay
from .under_display import inverse_tone_map as inverse_tone_map
from .under_display import tone_map as tone_map
