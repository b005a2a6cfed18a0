"""Denoisers under one convention, and the steps that make samplers of them. Knows nothing of defences."""

from .clamped import Clamped as Clamped
from .denoiser import Denoiser as Denoiser
from .denoiser import NoiseConditioned as NoiseConditioned
from .discrete import DiscreteTime as DiscreteTime
from .discrete import linear_alphas as linear_alphas
from .dpm_solver import DPMSolverPP as DPMSolverPP
from .faster import BFloat16 as BFloat16
from .faster import ChannelsLast as ChannelsLast
from .faster import Compiled as Compiled
from .faster import Faster as Faster
from .faster import Float16 as Float16
from .graphed import Graphed as Graphed
from .grid import Even as Even
from .grid import Grid as Grid
from .grid import TimestepGrid as TimestepGrid
from .guidance import GradientGuidance as GradientGuidance
from .guidance import Guidance as Guidance
from .guidance import Reference as Reference
from .guidance import guided as guided
from .sampling import DDIM as DDIM
from .sampling import DDPM as DDPM
from .sampling import OneStep as OneStep
from .sampling import Sampler as Sampler
from .unet import SigmaUNet as SigmaUNet
from .vp_sde import VPODE as VPODE
from .vp_sde import VPSDE as VPSDE
