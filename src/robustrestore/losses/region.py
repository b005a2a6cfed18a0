"""Damage in one region only: what the model changes of an image, or the rest. Regions as Yu et al. (2022) tell them apart."""

import math
from collections.abc import Callable
from dataclasses import replace as changed

import torch
from torch import Tensor

from ..loss import Loss
from ..task import Objective
from ._images import check_restoration, difference, each, wide

GREY_LEVELS = 10 / 255


def degraded_region(model: Callable[[Tensor], Tensor], images: Tensor, threshold: float) -> Tensor:
    """Where some channel of the model's output is off the image by more than `threshold`, bool [N, 1, H, W]."""
    with torch.no_grad():
        outputs = model(images)
    return (difference(outputs, images, "input").abs() > threshold).any(1, keepdim=True)


def check_threshold(threshold: float) -> float:
    """`threshold` as a number; ValueError unless it is finite and at least 0."""
    if not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold: expected a difference >= 0 in units of [0, 1] images, got {threshold}: write 10 / 255")
    return float(threshold)


class DegradedRegion(Loss, name="degraded_region"):
    """Squared error to the target where the model changes the clean image by more than `threshold`, say where it rains.

    The regions are those of Yu et al. (CVPR 2022), at 10/255 in any channel; they confine the *change* to one (that is
    `attacks.DegradedOnly`), while this loss counts the *damage* there, as in the partial attack of Choi et al. (2019).
    Mean over the region, 0 where it is empty. Asks the model once. TypeError for tasks with classes.
    """

    def __init__(self, threshold: float = GREY_LEVELS) -> None:
        self.threshold = check_threshold(threshold)

    def run(self, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> Objective:
        """The region is kept as context."""
        check_restoration(objective, self)
        return _within(objective, degraded_region(model, images, self.threshold))


class IntactRegion(Loss, name="intact_region"):
    """The complement of `DegradedRegion` (regions of Yu et al., CVPR 2022): damage where the model had nothing to do."""

    def __init__(self, threshold: float = GREY_LEVELS) -> None:
        self.threshold = check_threshold(threshold)

    def run(self, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> Objective:
        """The region is kept as context."""
        check_restoration(objective, self)
        return _within(objective, ~degraded_region(model, images, self.threshold))


def _within(objective: Objective, region: Tensor) -> Objective:
    sign = -1.0 if objective.towards else 1.0

    def measure(outputs: Tensor, target: Tensor, region: Tensor) -> Tensor:
        counted = each(region.to(wide(outputs))).clamp(min=0.5 / region[0].numel())  # an empty region divides by no 0
        return sign * each(difference(outputs, target, "target").square() * region) / counted

    return changed(objective, measure=measure, context=(region,))
