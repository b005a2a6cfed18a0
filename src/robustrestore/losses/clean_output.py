"""CleanOutput: away from what the model makes of the clean image, as in Yu et al. (2022)."""

from collections.abc import Callable
from dataclasses import replace as changed

from torch import Tensor

from ..loss import Loss
from ..task import Objective
from ._images import answer, check_restoration, difference, each


class CleanOutput(Loss, name="clean_output"):
    """Squared error to the model's own output for the clean image (Yu et al., CVPR 2022): stability, no truth needed.

    Theirs is rounded to 8 bits, ours is not. Its gradient is exactly 0 at the clean image, so the attack has to start off
    it: PGD with its random start, not FGSM. The objective still decides which image is kept; for this distance there too,
    attack `task.untargeted(model(images))`. The target plays no part. TypeError for tasks with classes: see `Divergence`,
    which is this and, for classes, a KL divergence.
    """

    def run(self, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> Objective:
        """Asks the model once; its answer is kept as context."""
        check_restoration(objective, self)

        def measure(outputs: Tensor, target: Tensor, clean: Tensor) -> Tensor:
            return each(difference(outputs, clean, "clean output").square())

        return changed(objective, measure=measure, context=(answer(model, images),))
