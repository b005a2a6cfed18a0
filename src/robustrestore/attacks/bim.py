"""BIM, the basic iterative method (Kurakin, Goodfellow and Bengio, 2017)."""

from torch import Tensor

from ..attack import Attack, Model
from ..loss import Loss
from ..task import Objective
from ..threat import Threat, as_threat
from .pgd import PGD


class BIM(Attack, name="bim"):
    """Gradient steps from the clean image (Kurakin, Goodfellow and Bengio, 2017), also called I-FGSM: no random start.

    `step` is in the threat's units, by default a quarter of its size, our choice; in the paper one grey level. Where the
    gradient at the clean image is zero (the objective compares with the model's own clean output) it finds nothing: use PGD.
    """

    def __init__(
        self, threat: Threat, steps: int = 10, step: float | None = None, samples: int = 1, loss: Loss | None = None
    ) -> None:
        self.threat, self.steps, self.step, self.samples, self.loss = as_threat(threat), steps, step, samples, loss
        self._pgd = PGD(self.threat, steps, step, samples=samples, random_start=False, loss=loss)

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """PGD from the clean image."""
        return self._pgd.run(model, images, objective)
