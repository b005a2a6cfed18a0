"""SegPGD (Gu et al., 2022)."""

from torch import Tensor

from ..attack import Attack, Model
from ..losses import SegPGDWeighted
from ..modes import generator
from ..search import Search
from ..task import Objective
from ..threat import Threat, as_threat
from .pgd import PGD, start


class SegPGD(Attack, name="seg_pgd"):
    """PGD for segmentation that looks at right pixels first, at all alike in the end (Gu, Zhao, Tresp and Torr, ECCV 2022).

    At step t of T wrong pixels weigh (t - 1) / 2T, right ones the rest to 1. With one label an image the weight would
    scale the whole gradient and change no step: that is PGD, so it fits segmentation alone. Start and step as in `PGD`.
    """

    answers = ("map",)

    def __init__(
        self, threat: Threat, steps: int = 20, step: float | None = None, samples: int = 1, seed: int | None = 0
    ) -> None:
        PGD(threat, steps, step, samples=samples)  # checks them
        self.threat, self.steps, self.step, self.samples, self.seed = as_threat(threat), steps, step, samples, seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Ascend from a uniform start; the first gradient is taken at the clean image, which is scored that way."""
        search, step = Search(model, images, objective, samples=self.samples), self.step or self.threat.eps / 4
        current = images
        away = start(self.threat, images, generator(self.seed), self.seed) - images
        for done in range(self.steps):
            search.climb(SegPGDWeighted(done / (2 * self.steps)))
            _, gradient = search.gradient(current)
            moved = current + away if done == 0 else current
            current = self.threat.project(moved + step * self.threat.steepest(gradient), search.original)
            if (kept := search.drop()) is not None:
                current = current[kept]
            if not len(search):
                break
        else:
            search.look(current)
        return search.result()
