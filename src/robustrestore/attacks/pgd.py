"""PGD (Madry et al., 2018)."""

from torch import Generator, Tensor

from ..attack import Attack, Best, Model, ascent, mean_gain
from ..modes import generator
from ..task import Objective
from ..threat import Threat, as_threat


class PGD(Attack, name="pgd"):
    """Projected gradient ascent (Madry, Makelov, Schmidt, Tsipras and Vladu, 2018).

    `step` is in the threat's units, by default a quarter of its size. The first start is uniform in the ball, or the
    clean image with `random_start=False`; further `restarts` are always uniform. `samples` > 1 averages gradients over a
    random defence (EOT). Per image the best of all iterates is kept, the clean image included. With a `seed` every image
    gets the same start whatever its batch; None draws afresh for each.
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
    ) -> None:
        for what, value in (("steps", steps), ("restarts", restarts), ("samples", samples)):
            if value < 1:
                raise ValueError(f"{what}: expected a whole number >= 1, got {value}")
        if step is not None and not step > 0:
            raise ValueError(f"step: expected a size > 0 or None (a quarter of the threat), got {step}")
        self.threat, self.steps, self.step = as_threat(threat), steps, step
        self.restarts, self.samples, self.random_start, self.seed = restarts, samples, random_start, seed

    def _start(self, images: Tensor, own: Generator) -> Tensor:
        """With a seed every image gets the same draw, so that its attack does not depend on its batch."""
        one = images if self.seed is None else images[:1]
        return self.threat.project(images + self.threat.draw(one, own), images)

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Ascend from every start."""
        step = self.threat.eps / 4 if self.step is None else self.step
        own = generator(self.seed)
        best = Best(images, mean_gain(model, images, objective, self.samples))
        for restart in range(self.restarts):
            start = self.random_start or restart > 0
            current = self._start(images, own) if start else images
            for _ in range(self.steps):
                gain, gradient = ascent(model, current, objective, self.samples)
                best.update(current, gain)
                current = self.threat.project(current + step * self.threat.steepest(gradient), images)
            best.update(current, mean_gain(model, current, objective, self.samples))
        return best.images
