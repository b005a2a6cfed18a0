"""Undo: the output is drawn to the input, so that nothing is restored (Yu et al., 2022)."""

from collections.abc import Callable
from dataclasses import replace as changed

from torch import Tensor

from ..loss import Loss
from ..task import Objective
from ._images import check_restoration, difference, each


class Undo(Loss, name="undo"):
    """Lowers the squared error between output and clean input (Yu et al., CVPR 2022): rain stays where it was.

    They also use L1 and LPIPS there. The objective still decides which image is kept; to keep by this distance too, attack
    `task.targeted(images)`, as any other image is aimed at by `task.targeted(image)`. The target plays no part. TypeError for
    tasks with classes; ValueError where output and input differ in size.
    """

    def run(self, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> Objective:
        """The input is kept as context."""
        check_restoration(objective, self)

        def measure(outputs: Tensor, target: Tensor, given: Tensor) -> Tensor:
            return -each(difference(outputs, given, "input").square())

        return changed(objective, measure=measure, context=(images.detach(),))
