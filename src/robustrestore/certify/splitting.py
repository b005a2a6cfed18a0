"""Splitting noise for L1 (Levine and Feizi, 2021): SSN, and its deterministic form DSSN for 8-bit images."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .noise import Array, Noise, Norm, check_positive, drawn

GREY = 255


class Splitting(Noise):
    """Each value is replaced by the middle of the cell that holds it; cells have width 2 `spread` and a random offset.

    Two images differ in a cell with probability |x - y| / (2 spread) a value, however the offsets depend on each other, so the
    L1 radius is 2 spread (p - 1/2). A floor in L2 and Linf. Images must lie in [0, 1], as the attacker's do.
    """

    spread: float

    def applied(self, images: Tensor, noise: Tensor) -> Tensor:
        """The middle of each value's cell, the cell cut to [0, 1]; `noise` holds the offsets in (0, 2 spread)."""
        width = 2 * self.spread
        cell = ((images - noise) / width).ceil()
        above, below = (width * cell + noise).clamp(max=1), (width * (cell - 1) + noise).clamp(min=0)
        return ((above + below) / 2).to(images.dtype)

    def radii(self, p: Array, dims: int) -> Mapping[Norm, Array]:
        """L1 alone, rounded down."""
        return {"l1": np.nextafter(2 * self.spread * (p - 0.5), 0.0)}


class SSN(Splitting, name="ssn"):
    """Splitting noise with independent offsets (Levine and Feizi, 2021)."""

    def __init__(self, spread: float) -> None:
        check_positive(spread=spread)
        self.spread = float(spread)

    def sample_like(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Offsets, even in [0, 2 spread)."""
        return torch.rand(**drawn(images, generator)) * (2 * self.spread)


class DSSN(Splitting, name="dssn"):
    """Deterministic splitting noise for 8-bit images (Levine and Feizi, 2021): all offsets are gone through, so alpha is 0.

    The offsets of an image's values move together, each shifted by an amount that `seed` fixes; there are 2 * 255 `spread` of
    them, and `spread` is rounded to a whole number. The promise is about other 8-bit images, and of a model that is
    deterministic: one that draws is refused. With every class's share known, the gap of the first two counts: see
    `SmoothedClassifier`.
    """

    domain = "8-bit image"

    def __init__(self, spread: float, seed: int = 0) -> None:
        check_positive(spread=spread)
        self.count = max(1, round(2 * spread * GREY))
        self.spread, self.seed = self.count / (2 * GREY), seed

    def _shift(self, images: Tensor) -> Tensor:
        own = torch.Generator().manual_seed(self.seed)
        shift = torch.randint(0, self.count or 1, images.shape[1:], generator=own)
        return shift.to(images.device)

    def sample_like(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One of the draws for each image, as `nth` numbers them."""
        numbers = torch.randint(0, self.count or 1, (len(images),), generator=generator, device=images.device)
        return self._offsets(images, numbers)

    def nth(self, images: Tensor, numbers: Tensor) -> Tensor:
        """The offsets of draw k, halfway between grey levels: (k + shift) mod count + 1/2, in 255ths."""
        return self._offsets(images, numbers)

    def _offsets(self, images: Tensor, numbers: Tensor) -> Tensor:
        turned = (numbers.to(images.device).view(-1, 1, 1, 1) + self._shift(images)) % (self.count or 1)
        return (turned.double() + 0.5) / GREY

    def check(self, images: Tensor) -> None:
        """Expect grey levels k / 255."""
        check_grid(images, GREY)


def check_grid(images: Tensor, levels: int) -> None:
    """Raise unless all values are whole multiples of 1 / levels, up to float32 rounding."""
    scaled = images.double() * levels
    if bool(((scaled - scaled.round()).abs() > 1e-3).any()):
        raise ValueError(
            f"images: expected values k / {levels}, got others: this noise certifies images on that grid, so round them first: "
            f"(images * {levels}).round() / {levels}"
        )


def gap_as_probability(first: int, second: int, count: int) -> float:
    """The p that stands for the gap of the first two shares: both move by at most the same, so p - 1/2 is half their gap."""
    return (count + first - second) / (2 * count)
