"""What the seven attacks of UAE-RS (Xu and Ghamisi, 2022) share: a step scaled by the largest gradient, 8-bit images."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..images import per_image
from ..search import Search
from ..threat import NormalisedLinf, Threat

PUBLISHED = NormalisedLinf(1.0)  # eps 1 where ImageNet's normalisation applies
STEPS = 5
TINY = 1e-12

Gradient = Callable[[Tensor], Tensor]


def check(steps: int, step: float | None, bits: int | None) -> None:
    """Raise ValueError for settings that no attack of the family takes."""
    if steps < 1:
        raise ValueError(f"steps: expected a whole number >= 1, got {steps}")
    if step is not None and not step > 0:
        raise ValueError(f"step: expected a size > 0 or None (that of the threat), got {step}")
    if bits is not None and not 1 <= bits <= 16:
        raise ValueError(f"bits: expected 1 to 16 or None (no rounding), got {bits}")


def climb(search: Search, threat: Threat, steps: int, step: float | None, bits: int | None) -> Tensor:
    """Plain ascent of `search`'s gain from the clean image."""
    walk = Walk(search, threat, step, bits)
    for _ in range(steps):
        walk.move(search.gradient(walk.images)[1])
        if walk.drop() is not None and not len(search):
            break
    return walk.end()


class Walk:
    """The images as they are now; `move` takes one step of the family."""

    def __init__(self, search: Search, threat: Threat, step: float | None, bits: int | None) -> None:
        self.search, self.threat, self.images = search, threat, search.original
        self.step, self.levels = threat.eps if step is None else step, None if bits is None else 2**bits - 1

    def move(self, gradient: Tensor) -> None:
        """A step along the gradient, its largest entry the whole step, then into the threat, then to whole grey levels.

        In the threat's own units: for `NormalisedLinf` the gradient is that of the normalised image.
        """
        unit = self.threat.steepest(torch.ones_like(gradient))
        scaled = unit * gradient
        largest = per_image(scaled.abs().flatten(1).amax(1), scaled)
        moved = self.images + self.step * unit * scaled / torch.where(largest > 0, largest, 1.0)
        self.images = rounded(self.threat.project(moved, self.search.original), self.search.original, self.threat, self.levels)

    def drop(self) -> Tensor | None:
        """As `Search.drop`, which see."""
        if (kept := self.search.drop()) is not None:
            self.images = self.images[kept]
        return kept

    def end(self) -> Tensor:
        """Score the last images; the best of all."""
        if len(self.search):
            self.search.look(self.images)
            self.search.drop()
        return self.search.result()


def rounded(images: Tensor, original: Tensor, threat: Threat, levels: int | None) -> Tensor:
    """`images` at the nearest of `levels` steps, or the next towards the original where the nearest is not allowed.

    Where no level is allowed (an original between two levels, a tiny threat) a value stays between them.
    """
    if levels is None:
        return images
    nearest = (images * levels).round() / levels
    inward = torch.where(images > original, (images * levels).floor(), (images * levels).ceil()) / levels
    allowed = (threat.project(nearest, original) - nearest).abs() < 1e-6
    return threat.project(torch.where(allowed, nearest, inward), original)
