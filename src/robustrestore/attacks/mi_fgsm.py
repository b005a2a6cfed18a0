"""MI-FGSM (Dong et al., 2018): iterative steps along a running sum of gradients."""

import torch
from torch import Tensor

from ..attack import Attack, Model
from ..images import per_image
from ..loss import Loss
from ..search import Search
from ..task import Objective
from ..threat import Threat, as_threat
from .pgd import PGD


class MIFGSM(Attack, name="mi_fgsm"):
    """Momentum iterative FGSM (Dong et al., 2018): m <- momentum m + g / ||g||_1, a step along m; from the clean image.

    `step` is in the threat's units, by default the threat's size over `steps`, as in the paper. Momentum carries the images
    over narrow maxima of this model, so that they more often fool another one. Where the gradient is zero the sum of the
    earlier ones goes on; at a clean image where it is zero, it finds nothing: use PGD.
    """

    def __init__(
        self,
        threat: Threat,
        steps: int = 10,
        step: float | None = None,
        momentum: float = 1.0,
        samples: int = 1,
        loss: Loss | None = None,
    ) -> None:
        PGD(threat, steps, step, samples=samples)  # checks them
        if not 0 <= momentum < float("inf"):
            raise ValueError(f"momentum: expected a factor >= 0, 1 in the paper, got {momentum}")
        self.threat, self.steps, self.step = as_threat(threat), steps, step
        self.momentum, self.samples, self.loss = momentum, samples, loss

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Ascend from the clean image."""
        search = Search(model, images, objective, self.loss, self.samples)
        step = self.threat.eps / self.steps if self.step is None else self.step
        current, total = images, torch.zeros_like(images)
        for _ in range(self.steps):
            _, gradient = search.gradient(current)
            total = self.momentum * total + _shares(gradient)
            current = self.threat.project(current + step * self.threat.steepest(total), search.original)
            if (kept := search.drop()) is not None:
                current, total = current[kept], total[kept]
            if not len(search):
                return search.result()
        search.look(current)
        return search.result()


def _shares(gradient: Tensor) -> Tensor:
    """The gradient at sum of absolute values 1, however faint; 0 where it is 0, for 0 / 0 would stay in the sum for good."""
    largest = per_image(gradient.abs().flatten(1).amax(dim=1), gradient)
    scaled = gradient / torch.where(largest > 0, largest, 1.0)
    return scaled / per_image(scaled.abs().flatten(1).sum(1).clamp(min=1), gradient)
