"""The shelf of guidances: what holds a diffusion purifier to the image that it was given."""

from .agdm import AGDM as AGDM
from .class_terms import AnyLabel as AnyLabel
from .class_terms import ClassTerm as ClassTerm
from .class_terms import LabelOfInput as LabelOfInput
from .class_terms import LabelOfNoisy as LabelOfNoisy
from .frequency import FrequencyGuidance as FrequencyGuidance
from .on_estimate import OnEstimate as OnEstimate
from .pixel import PixelGuidance as PixelGuidance
from .pixel import SSIMGuidance as SSIMGuidance
from .references import Denoised as Denoised
from .references import Renoised as Renoised
