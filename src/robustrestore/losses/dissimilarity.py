"""Dissimilarity: one less the structural similarity (Wang et al., 2004)."""

from collections.abc import Callable
from dataclasses import replace as changed

from torch import Tensor

from ..guidances.pixel import similarity
from ..loss import Loss
from ..task import Objective
from ._images import check_restoration, difference, each, wide


class Dissimilarity(Loss, name="dissimilarity"):
    """1 - SSIM to the target (Wang et al., 2004), raised, or lowered for a targeted goal; in 0..2, 0 for equal images.

    Counted where the window fits, as `metrics.ssim` does; PReNet's training loss (Ren et al., 2019) is -SSIM, the same up to a
    constant, but counts padded edges too. TypeError for tasks with classes; ValueError below 11 x 11 pixels.
    """

    def run(self, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> Objective:
        """The same goal, measured by structural similarity."""
        check_restoration(objective, self)
        sign = -1.0 if objective.towards else 1.0

        def measure(outputs: Tensor, target: Tensor) -> Tensor:
            difference(outputs, target, "target")  # says what is wrong with their shapes
            found = wide(outputs)
            return sign * (1 - each(similarity(found, target.to(found))))

        return changed(objective, measure=measure, context=())
