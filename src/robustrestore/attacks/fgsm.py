"""FGSM (Goodfellow, Shlens and Szegedy, 2015)."""

from torch import Tensor

from ..attack import Attack, Model
from ..task import Objective
from ..threat import Threat, as_threat
from .pgd import PGD


class FGSM(Attack, name="fgsm"):
    """One step of the threat's full size along the gradient at the clean image (Goodfellow et al., 2015).

    The clean image is kept where the step did not raise the objective. Where the gradient at the clean image is zero
    (the objective compares with the model's own clean output) it finds nothing: use PGD.
    """

    def __init__(self, threat: Threat) -> None:
        self.threat = as_threat(threat)

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """PGD of one long step."""
        if self.threat.eps == 0:
            return images
        return PGD(self.threat, steps=1, step=self.threat.eps, random_start=False).run(model, images, objective)
