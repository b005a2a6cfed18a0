"""The shelf of purifiers: stages that take an attack out, and the plain filters they have to beat."""

from .adaptive import Adaptive as Adaptive
from .bit_depth import BitDepth as BitDepth
from .blur import Blur as Blur
from .denoise import Denoise as Denoise
from .dense_pure import DensePure as DensePure
from .diffusion import Diffusion as Diffusion
from .ensemble import Ensemble as Ensemble
from .jpeg import Jpeg as Jpeg
from .median import Median as Median
from .rounds import Rounds as Rounds
from .score_opt import ScoreOpt as ScoreOpt
