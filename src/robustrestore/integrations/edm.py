"""EDM (Karras, Aittala, Aila and Laine, 2022): networks of continuous noise levels on [-1, 1] images as denoisers."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..diffusion import Denoiser, NoiseConditioned
from ..diffusion.denoiser import answer, checked_multiple
from ..images import per_image

LEAST = 0.002  # the lowest level that Karras et al. sample at; networks take its logarithm, so 0 would be no number


class EDM(Denoiser, name="edm"):
    """A raw network `network(scaled z, label [N])`, preconditioned here as by Karras et al. (2022).

    With s twice our sigma and d = `sigma_data`: estimate = d^2 / (s^2 + d^2) z + s d / sqrt(s^2 + d^2) network(z /
    sqrt(s^2 + d^2), label), z on [-1, 1], so that at sigma 0 the image comes back as it is. `label`: "log" is log(s) / 4 (the
    paper's), "sigma" is s itself (k-diffusion's inner models). Levels below 0.002 are told as 0.002, our choice. For a
    network that preconditions itself see `denoiser_from`.
    """

    def __init__(
        self, network: nn.Module, sigma_data: float = 0.5, label: Literal["log", "sigma"] = "log", multiple: int = 1
    ) -> None:
        super().__init__()
        if not 0 < sigma_data < math.inf:
            raise ValueError(f"sigma_data: expected a finite number above 0, got {sigma_data}")
        if label not in ("log", "sigma"):
            raise ValueError(f"label: expected log or sigma, got {label!r}")
        self.network, self.sigma_data, self.label = network, float(sigma_data), label
        self.multiple = checked_multiple(multiple)

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Scale, ask, and mix with the input."""
        z, level = 2 * noisy - 1, 2 * sigma
        told = level.clamp(min=LEAST)
        label = told if self.label == "sigma" else told.log() / 4
        s, d = per_image(level, noisy), self.sigma_data
        norm = torch.rsqrt(s.square() + d**2)
        raw = answer(self.network(z * norm, label), self.network, noisy)
        return ((d * norm).square() * z + s * d * norm * raw + 1) / 2


def denoiser_from(network: Callable[..., Any], multiple: int = 1) -> NoiseConditioned:
    """A network that preconditions itself, called as `network(z, sigma [N]) -> clean z` on [-1, 1] images (`EDMPrecond`).

    Their checkpoints are pickled code, which is not read here: load them where you trust them and hand over the module.
    """
    return NoiseConditioned(Finished(network), scale=2.0, shift=-1.0, multiple=multiple).eval()


class Finished(nn.Module):
    """A module or function of (z, sigma) that is never told a level below `LEAST`, and whose answer is checked."""

    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__()
        if not callable(network):
            raise TypeError(f"network: expected a module or function of (noisy, sigma), got {type(network).__name__}")
        self.network = network

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """The clean images in the network's units."""
        return answer(self.network(z, sigma.clamp(min=LEAST)), self.network, z)
