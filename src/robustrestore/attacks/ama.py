"""AMA, the Auxiliary Mirror Attack of PEARL (Jiao et al., 2023)."""

from torch import Tensor

from ..attack import Attack, Model
from ..task import Objective
from ..threat import Threat, as_threat
from .pgd import PGD


class AMA(Attack, name="ama"):
    """Auxiliary Mirror Attack (Jiao et al., ACM MM 2023): the small change that makes the model's job easier.

    PGD on the mirrored objective, from the clean image. PEARL trains towards such images. The paper's abstract gives
    the idea; steps, step size and start are our choice.
    """

    mirrors = True

    def __init__(self, threat: Threat, steps: int = 5, step: float | None = None) -> None:
        self.threat, self.steps, self.step = as_threat(threat), steps, step

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """PGD from the clean image; the base has mirrored the objective already."""
        return PGD(self.threat, self.steps, self.step, random_start=False).run(model, images, objective)
