"""Denoisers under one convention, and the steps that make samplers of them. Knows nothing of defences."""

from .denoiser import Denoiser as Denoiser
from .denoiser import NoiseConditioned as NoiseConditioned
from .discrete import DiscreteTime as DiscreteTime
from .discrete import linear_alphas as linear_alphas
from .sampling import DDIM as DDIM
from .sampling import DDPM as DDPM
from .sampling import OneStep as OneStep
from .sampling import Sampler as Sampler
from .unet import SigmaUNet as SigmaUNet
