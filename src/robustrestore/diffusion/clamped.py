"""Clamped: a denoiser whose estimates stay in the range of images, as published samplers clip them."""

import math

from torch import Tensor

from .denoiser import Denoiser


class Clamped(Denoiser, name="clamped"):
    """Another denoiser's estimate, cut to [`low`, `high`] in [0, 1] units: `clip_denoised` of Dhariwal and Nichol (2021).

    Samplers take the noise from the estimate, so what they carry on fits the one that was cut: diffusers' `clip_sample` in
    DDPM, and in DDIM with `use_clipped_model_output`. A `clip_sample_range` r is `low` (1 - r) / 2 and `high` (1 + r) / 2. The
    gradient is exact, so it is 0 where a pixel was cut: an attacker sees none there, which is no robustness.
    """

    def __init__(self, denoiser: Denoiser, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"denoiser: expected a Denoiser, got {type(denoiser).__name__}")
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"low, high: expected finite numbers, low below high, got {low} and {high}")
        self.denoiser, self.low, self.high = denoiser, float(low), float(high)
        self.multiple = denoiser.multiple

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The estimate, cut."""
        estimate: Tensor = self.denoiser(noisy, sigma)
        return estimate.clamp(self.low, self.high)
