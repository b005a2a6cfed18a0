"""NAA, the Negative Adversarial Attack of PEARL (Jiao et al., 2023)."""

from torch import Tensor

from ..attack import Attack, Model
from ..task import Objective
from ..threat import Threat, as_threat
from .pgd import PGD


class NAA(Attack, name="naa"):
    """Negative Adversarial Attack (Jiao et al., ACM MM 2023): the plain adversary that PEARL trains and is tested against.

    PGD on the objective from a uniform start; the counterpart of `AMA`, which goes the other way. The paper's abstract
    gives the idea; steps, step size and start are our choice.
    """

    def __init__(self, threat: Threat, steps: int = 20, step: float | None = None, seed: int | None = 0) -> None:
        PGD(threat, steps, step)  # checks them
        self.threat, self.steps, self.step, self.seed = as_threat(threat), steps, step, seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """PGD from a random point of the ball."""
        return PGD(self.threat, self.steps, self.step, seed=self.seed).run(model, images, objective)
