"""k-diffusion (Crowson, 2022): its denoisers, its inner models and its v-predicting networks as denoisers of ours."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion import Denoiser, NoiseConditioned
from ..diffusion.denoiser import answer, checked_multiple
from ..images import per_image
from . import edm


def denoiser_from(model: Callable[..., Any], multiple: int = 1) -> NoiseConditioned:
    """A finished denoiser `model(z, sigma [N]) -> clean z` on [-1, 1] images: `layers.Denoiser`, `DiscreteEpsDDPMDenoiser`."""
    return edm.denoiser_from(model, multiple)


def preconditioned(inner: nn.Module, sigma_data: float = 0.5, multiple: int = 1) -> edm.EDM:
    """A bare inner model `inner(scaled z, sigma [N])`; `sigma_data` from its training configuration."""
    return edm.EDM(inner, sigma_data, "sigma", multiple)


class ContinuousV(Denoiser, name="continuous_v"):
    """A network `network(z, t [N]) -> v` of continuous time t in (0, 1) on [-1, 1] images (Salimans and Ho, 2022).

    z = cos(pi t / 2) (2 x - 1) + sin(pi t / 2) noise, as k-diffusion's `VDenoiser` and v-diffusion have it, so that a level
    asks for t = 2 atan(2 sigma) / pi, and the estimate is cos z - sin v.
    """

    def __init__(self, network: nn.Module, multiple: int = 1) -> None:
        super().__init__()
        self.network, self.multiple = network, checked_multiple(multiple)

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Scale to unit variance, predict, and solve for the image."""
        angle = torch.atan(2 * sigma)
        cos, sin = per_image(angle.cos(), noisy), per_image(angle.sin(), noisy)
        z = cos * (2 * noisy - 1)
        v = answer(self.network(z, angle * (2 / math.pi)), self.network, noisy)
        return (cos * z - sin * v + 1) / 2
