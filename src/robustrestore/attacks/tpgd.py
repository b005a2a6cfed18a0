"""TPGD, the inner attack of TRADES (Zhang et al., 2019): away from the model's own clean answer."""

import torch
from torch import Generator, Tensor

from ..attack import Attack, Model
from ..losses import Divergence
from ..modes import generator
from ..search import Search
from ..task import Objective
from ..threat import Threat, as_threat
from .pgd import PGD

NEAR = 0.001  # standard deviation of the start around the clean image, where the divergence has no gradient


class TPGD(Attack, name="tpgd"):
    """PGD on `losses.Divergence` from beside the clean image (TRADES, Zhang et al., 2019): climbs without any label.

    `step` is in the threat's units, by default a quarter of its size, our choice. Which image is kept is still the
    objective's to say. With a `seed` every image gets the same start whatever its batch; None draws afresh for each.
    """

    def __init__(
        self, threat: Threat, steps: int = 10, step: float | None = None, samples: int = 1, seed: int | None = 0
    ) -> None:
        PGD(threat, steps, step, samples=samples)  # checks them
        self.threat, self.steps, self.step, self.samples, self.seed = as_threat(threat), steps, step, samples, seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Ascend from a Gaussian start; the clean image is shown for its gain alone."""
        search = Search(model, images, objective, Divergence(), self.samples)
        search.look(images)
        step = self.threat.eps / 4 if self.step is None else self.step
        current = self.threat.project(images + NEAR * _normal(images, generator(self.seed), self.seed), images)
        if (kept := search.drop()) is not None:
            current = current[kept]
        for _ in range(self.steps):
            if not len(search):
                return search.result()
            _, gradient = search.gradient(current)
            current = self.threat.project(current + step * self.threat.steepest(gradient), search.original)
            if (kept := search.drop()) is not None:
                current = current[kept]
        search.look(current)
        return search.result()


def _normal(images: Tensor, own: Generator, seed: int | None) -> Tensor:
    one = images if seed is None else images[:1]
    return torch.randn(one.shape, generator=own, dtype=torch.float32).to(images).expand_as(images)
