"""CosPGD (Agnihotri, Jung and Keuper, 2024)."""

from torch import Tensor

from ..attack import Attack, Model
from ..losses import CosineWeighted
from ..task import Objective
from ..threat import Threat, as_threat
from .pgd import PGD


class CosPGD(Attack, name="cos_pgd"):
    """PGD on a loss that counts a pixel the more the closer it is to the truth (Agnihotri, Jung and Keuper, ICML 2024).

    PGD from a uniform start with `losses.CosineWeighted`, whose weight for images in [0, 1] is close to 1: for restorers
    expect what PGD gives, and with one channel exactly that. With one label an image it would be PGD as well. The paper
    takes steps of 0.01 at eps 8/255; `None` is our choice, a quarter of the threat's size as in `PGD`.
    """

    answers = ("map", "image")

    def __init__(
        self, threat: Threat, steps: int = 20, step: float | None = None, samples: int = 1, seed: int | None = 0
    ) -> None:
        PGD(threat, steps, step, samples=samples)  # checks them
        self.threat, self.steps, self.step, self.samples, self.seed = as_threat(threat), steps, step, samples, seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """PGD on the weighted loss; the objective itself decides which image is kept."""
        climb = PGD(self.threat, self.steps, self.step, samples=self.samples, seed=self.seed, loss=CosineWeighted())
        return climb.run(model, images, objective)
