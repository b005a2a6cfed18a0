"""L1: mean absolute error, as one of the losses of Yu et al. (2022)."""

from collections.abc import Callable
from dataclasses import replace as changed

from torch import Tensor

from ..loss import Loss
from ..task import Objective
from ._images import check_restoration, difference, each


class L1(Loss, name="l1"):
    """Mean absolute error to the target (Yu et al., CVPR 2022, beside the squared error): large errors weigh no more.

    Raised, or lowered for a targeted goal. Unlike the squared error it keeps its slope where the error is small; where it is
    exactly 0 there is none. In [0, 1] units; TypeError for tasks with classes.
    """

    def run(self, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> Objective:
        """The same goal, measured by the absolute error."""
        check_restoration(objective, self)
        sign = -1.0 if objective.towards else 1.0

        def measure(outputs: Tensor, target: Tensor) -> Tensor:
            return sign * each(difference(outputs, target, "target").abs())

        return changed(objective, measure=measure, context=())
