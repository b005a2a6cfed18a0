"""SEA, the Segmentation Ensemble Attack (Croce, Singh and Hein, 2024)."""

from dataclasses import replace as changed

from torch import Tensor

from ..attack import Attack, Model
from ..loss import Loss
from ..losses import BalancedCrossEntropy, JensenShannon, MaskedCrossEntropy
from ..modes import generator
from ..search import Search
from ..task import Objective
from ..threat import Linf, Threat, as_threat
from .apgd import APGD, ascend
from .pgd import start

WIDER = ((2.0, 0.3), (1.5, 0.3))  # radii that are walked before the threat's own, and their shares of the steps
LOSSES: tuple[type[Loss], ...] = (BalancedCrossEntropy, MaskedCrossEntropy, JensenShannon)


class SEA(Attack, name="sea"):
    """Per image the worst of three attacks, one a loss (Croce, Singh and Hein, ECCV 2024).

    APGD on balanced masked cross-entropy, masked cross-entropy and Jensen-Shannon divergence, `steps` gradients each: 30 %
    at twice the radius, 30 % at 1.5, 40 % at the threat's own, each from the best point of the one before, the first from
    a uniform start. Plain cross-entropy controls the step. The paper takes 300 steps. For a `judged` objective, as in
    `evaluate`, the worst is the lowest pixel accuracy, and images without a right pixel left are dropped. For the worst mean
    IoU, which is no mean over images, hand the three attacks to a report one by one.
    """

    answers = ("map",)

    def __init__(self, threat: Threat, steps: int = 100, samples: int = 1, seed: int | None = 0) -> None:
        APGD(threat, steps, samples=samples)  # checks them
        self.threat, self.steps, self.samples, self.seed = as_threat(threat), steps, samples, seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """One loss after the other, on the images that are not wholly wrong yet."""
        search, own = Search(model, images, objective, samples=self.samples), generator(self.seed)
        search.look(images)
        search.drop()
        for loss in LOSSES:
            if not len(search):
                break
            begin = start(_wider(self.threat, WIDER[0][0]), search.original, own, self.seed)
            left = self.steps
            for factor, share in WIDER:
                steps = int(share * self.steps)
                begin = self._walk(model, search, loss(), begin, (_wider(self.threat, factor), steps))
                left -= steps
            search.climb(loss())
            search.comparable = False
            ascend(search, self.threat, self.threat.project(begin, search.original), left)
        return search.result()

    def _walk(self, model: Model, search: Search, loss: Loss, begin: Tensor, stage: tuple[Threat, int]) -> Tensor:
        """The best point by plain cross-entropy in a wider threat: a start, never a result."""
        threat, steps = stage
        if steps == 0:
            return begin
        beyond = Search(model, search.original, changed(search.judge, by_harm=False), loss, self.samples)
        beyond.comparable = False
        best = ascend(beyond, threat, threat.project(begin, search.original), steps)
        return begin if best is None else best


def _wider(threat: Threat, factor: float) -> Threat:
    """The same threat, larger; the largest change of a value is at most 1."""
    size = factor * threat.eps
    return threat.replace(eps=min(size, 1.0) if isinstance(threat, Linf) else size)
