"""Attacks that may change one region only: what the model restores, or the rest (Yu et al., 2022)."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..attack import Attack, Model
from ..losses.region import GREY_LEVELS, check_threshold, degraded_region
from ..task import Objective


class DegradedOnly(Attack, name="degraded_only"):
    """Any attack, confined to pixels that the model changes by more than `threshold` in some channel (Yu et al., 2022).

    In rain removal: only rainy pixels may be changed. The attack is told the truth about it: every image it asks about is
    confined first. Give it `PGD(threat)` for the published form. Damage is counted everywhere; `losses.DegradedRegion` counts
    it in the region.
    """

    fills = False
    answers = ("image",)

    def __init__(self, attack: Attack, threshold: float = GREY_LEVELS) -> None:
        self.attack, self.threshold = _harmful(attack), check_threshold(threshold)
        self.threat = attack.threat

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """The attack within the region."""
        return _confined(self.attack, degraded_region(model, images, self.threshold))(model, images, objective)


class IntactOnly(Attack, name="intact_only"):
    """The complement of `DegradedOnly` (Yu et al., 2022): only pixels that need no restoration may be changed."""

    fills = False
    answers = ("image",)

    def __init__(self, attack: Attack, threshold: float = GREY_LEVELS) -> None:
        self.attack, self.threshold = _harmful(attack), check_threshold(threshold)
        self.threat = attack.threat

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """The attack within the rest."""
        return _confined(self.attack, ~degraded_region(model, images, self.threshold))(model, images, objective)


def _harmful(attack: Attack) -> Attack:
    if not isinstance(attack, Attack):
        raise TypeError(f"attack: expected an attack such as rr.attacks.PGD(...), got {attack!r}")
    if attack.mirrors:
        raise ValueError(f"attack: expected one that does harm, got {attack!r}, which does the opposite")
    return attack


def _confined(attack: Attack, region: Tensor) -> Callable[[Model, Tensor, Objective], Tensor]:
    def run(model: Model, images: Tensor, objective: Objective) -> Tensor:
        def inside(found: Tensor) -> Tensor:
            return torch.where(region, found, images)

        def ask(found: Tensor) -> Tensor:
            if len(found) != len(images):
                raise ValueError(
                    f"attack: expected one that asks about all {len(images)} images at once, got {len(found)}: "
                    "hand it one image at a time"
                )
            return model(inside(found))

        return inside(attack(ask, images, objective))

    return run
