"""PGD (Madry et al., 2018)."""

from torch import Generator, Tensor

from ..attack import Attack, Model
from ..loss import Loss
from ..modes import generator
from ..search import Search
from ..task import Objective
from ..threat import Threat, as_threat


class PGD(Attack, name="pgd"):
    """Projected gradient ascent (Madry, Makelov, Schmidt, Tsipras and Vladu, 2018).

    `step` is in the threat's units, by default a quarter of its size. The first start is uniform in the ball, or the
    clean image with `random_start=False`; further `restarts` are always uniform. `samples` > 1 averages gradients over a
    random defence (EOT). With a `seed` every image gets the same start whatever its batch; None draws afresh for each.
    `loss`: climbed in place of the objective's own. Per image the best of all iterates is kept, the clean image included:
    the first gradient is taken there, so that this costs nothing. Where it is zero (a model's own clean output is the
    target), the first step is the random start alone.
    """

    def __init__(
        self,
        threat: Threat,
        steps: int = 20,
        step: float | None = None,
        restarts: int = 1,
        samples: int = 1,
        random_start: bool = True,
        seed: int | None = 0,
        loss: Loss | None = None,
    ) -> None:
        for what, value in (("steps", steps), ("restarts", restarts), ("samples", samples)):
            if value < 1:
                raise ValueError(f"{what}: expected a whole number >= 1, got {value}")
        if step is not None and not step > 0:
            raise ValueError(f"step: expected a size > 0 or None (a quarter of the threat), got {step}")
        self.threat, self.steps, self.step, self.loss = as_threat(threat), steps, step, loss
        self.restarts, self.samples, self.random_start, self.seed = restarts, samples, random_start, seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Ascend from every start."""
        search, own = Search(model, images, objective, self.loss, self.samples), generator(self.seed)
        for restart in range(self.restarts):
            if len(search):
                self._climb(search, own, restart)
        return search.result()

    def _climb(self, search: Search, own: Generator, restart: int) -> None:
        step = self.threat.eps / 4 if self.step is None else self.step
        current = search.original
        away = start(self.threat, current, own, self.seed) - current if self.random_start or restart else None
        if away is not None and restart:
            current, away = current + away, None
        for _ in range(self.steps):
            _, gradient = search.gradient(current)
            moved = current if away is None else current + away
            current = self.threat.project(moved + step * self.threat.steepest(gradient), search.original)
            away = None
            if (kept := search.drop()) is not None:
                current = current[kept]
            if not len(search):
                return
        search.look(current)
        search.drop()


def start(threat: Threat, images: Tensor, own: Generator, seed: int | None) -> Tensor:
    """Allowed images, uniform in the ball: with a seed the same draw for every image, so that no batch mate matters."""
    one = images if seed is None else images[:1]
    return threat.project(images + threat.draw(one, own), images)
