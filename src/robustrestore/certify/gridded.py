"""Gridded: smoothing noise in whole numbers, so that floating point breaks no promise."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .noise import Array, Noise, Norm, Symmetric
from .splitting import GREY, check_grid

BITS = 62  # of each draw; one of them is the sign


class Gridded(Noise, name="gridded"):
    """`noise` rounded to a grid of 1 / `levels`, for images on that grid (after Voracek and Hein, 2023).

    image + noise in floating point can tell where it came from, and real arithmetic cannot; a network can use that, and then
    the certificate is wrong. Here whole numbers k are drawn by exact thresholds and added to the image's own, so that the model
    sees a function of the exact sum rounded, and the radius of `noise` holds. What is left of rounding, the thresholds' own
    and the cut of the far tail, is bounded and taken off p (`slack`). The promise is about images on the grid alone: an image
    off it that is rounded at the door has moved further than the attacker moved it.
    """

    def __init__(self, noise: Symmetric, levels: int = 255) -> None:
        if not isinstance(noise, Symmetric):
            raise TypeError(f"noise: expected one with a symmetric density a value such as Gaussian(0.25), got {noise!r}")
        if levels < 1:
            raise ValueError(f"levels: expected a whole number >= 1, got {levels}")
        self.noise, self.levels = noise, levels
        self.domain = "8-bit image" if levels == GREY else f"image of values k / {levels}"
        self._limits, self._missed = _thresholds(noise, levels)

    def sample_like(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Whole numbers, as int64: how many limits a draw of 61 bits lies below, with a sign."""
        limits = self._limits.to(images.device)
        bits = torch.randint(0, 2**BITS, images.shape, generator=generator, device=images.device)
        size = len(limits) - torch.searchsorted(limits, bits >> 1, right=True)
        return torch.where(bits & 1 == 1, size, -size)

    def applied(self, images: Tensor, noise: Tensor) -> Tensor:
        """(image * levels + noise) / levels, the sum in whole numbers."""
        whole = (images.double() * self.levels).round().long() + noise
        return (whole.double() / self.levels).to(images.dtype)

    def radii(self, p: Array, dims: int) -> Mapping[Norm, Array]:
        """Those of the noise."""
        return self.noise.radii(p, dims)

    def check(self, images: Tensor) -> None:
        """Expect values k / levels."""
        check_grid(images, self.levels)

    def slack(self, dims: int) -> float:
        """Twice the total variation between what is drawn and the rounded noise: that of one value, times the values."""
        return 2 * dims * self._missed


def _thresholds(noise: Symmetric, levels: int) -> tuple[Tensor, float]:
    """P(|k| >= j) as 61-bit whole numbers, rising, for j from the last that can be drawn down to 1; and what they miss."""
    whole = 2.0 ** (BITS - 1)
    last = 1
    while float(noise.tail(np.array((last - 0.5) / levels))) * 2 * whole >= 1:
        last *= 2
        if last > 2**24:
            raise ValueError(f"noise: expected less than {2**24} grid steps of noise, got {noise!r} on 1 / {levels}")
    at = (np.arange(1, last + 1) - 0.5) / levels
    exact = 2 * noise.tail(at)
    limits = np.floor(exact * whole)
    kept = limits > 0
    missed = float(exact[~kept].sum()) + (kept.sum() + 1) / whole + 1e-13 * float(exact.sum())
    return torch.from_numpy(limits[kept][::-1].copy()).long(), float(missed)
