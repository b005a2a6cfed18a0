"""CW (Carlini and Wagner, 2017): the smallest change in L2 that reaches the goal."""

import math

import torch
from torch import Tensor

from ..attack import Attack, Model
from ..images import clamp, per_image
from ..losses.margin import lead
from ..search import Search
from ..task import Objective
from ..threat import Threat, as_threat

EDGE = 0.99  # where black and white start in tanh's [-1, 1]: at 1 they never move, at 1 - 1e-6 not in 600 steps of 0.01
FAINT = 1e-12  # Adam's floor: the usual 1e-8 hides faint gradients, those of a small `c` say
FASTER = 10.0  # the weight's factor until one succeeds
CHECKS, PROGRESS = 10, 1e-4  # an image whose cost fell by less than this share in a tenth of the steps is left alone


class CW(Attack, name="cw"):
    """Minimises ||d||^2 - c min(margin, confidence) with Adam in tanh space (Carlini and Wagner, 2017), c by binary search.

    The goal is the objective's `reached` by `confidence` logits: a wrong label, a map of which less than the task's `floor`
    is right. In a map, our choice, the margins of all labelled pixels are summed, and a last descent saves what was spent on
    pixels that did not turn. The search itself is unbounded; what needs more than the threat is projected at the end, so it
    suits an L2 threat. `steps` a weight, cut short where the cost stalls; `search_steps` weights from `c` on.
    """

    fills = False
    answers = ("label", "map")

    def __init__(
        self,
        threat: Threat,
        steps: int = 1000,
        search_steps: int = 9,
        lr: float = 0.01,
        confidence: float = 0.0,
        c: float = 1e-3,
    ) -> None:
        for what, count in (("steps", steps), ("search_steps", search_steps)):
            if count < 1:
                raise ValueError(f"{what}: expected a whole number >= 1, got {count}")
        for what, value in (("lr", lr), ("c", c)):
            if not 0 < value < math.inf:
                raise ValueError(f"{what}: expected a finite number > 0, got {value}")
        if not 0 <= confidence < math.inf:
            raise ValueError(f"confidence: expected a margin >= 0 in logits, got {confidence}")
        self.threat, self.steps, self.search_steps = as_threat(threat), steps, search_steps
        self.lr, self.confidence, self.c = lr, confidence, c

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """The smallest change of every image on which the goal is not reached yet."""
        search = Search(model, images, objective)
        search.gradient(images)  # the clean image counts too; a model without gradient is named
        with torch.no_grad():
            hit = self._reached(model(images), objective)
        left, found = (~hit).nonzero()[:, 0], images.clone()
        if len(left):
            found[left] = self._smallest(model, images[left], objective.at(left))
        search.look(self.threat.project(found, images))
        return search.result()

    def _smallest(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """The nearest success over all weights; the image itself where there is none."""
        best, low = images, images.new_zeros(len(images))
        size, high, weight = low + math.inf, low + math.inf, low + self.c
        counted = torch.ones_like(objective.target, dtype=torch.bool).flatten(1) if objective.target.dim() > 1 else None
        for _ in range(self.search_steps):
            found, length = self._descend(model, images, objective, weight, counted)
            hit, closer = length.isfinite(), length < size
            best, size = torch.where(per_image(closer, images), found, best), torch.where(closer, length, size)
            low, high = torch.where(hit, low, weight), torch.where(hit, weight, high)
            weight = torch.where(high.isfinite(), (low + high) / 2, weight * FASTER)
        if counted is not None:  # what is spent on pixels that did not turn is saved
            with torch.no_grad():
                counted = self._margins(model(best), objective) >= self.confidence
            found, length = self._descend(model, images, objective, weight * FASTER, counted)
            best = torch.where(per_image(length < size, images), found, best)
        return best

    def _descend(
        self, model: Model, images: Tensor, objective: Objective, weight: Tensor, counted: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """For one weight an image: the nearest success and its squared length, infinite where there is none."""
        place = (2 * images - 1).clamp(-EDGE, EDGE).atanh().requires_grad_()
        begin, found = place.detach().tanh(), images
        adam = torch.optim.Adam([place], lr=self.lr, eps=FAINT)
        size = torch.full_like(weight, math.inf)
        lowest, before, moving = size, size, size > 0
        for step in range(1, self.steps + 1):
            shown = clamp(images + (place.tanh() - begin) / 2)  # at the start exactly the image, however it was cut
            outputs = model(shown)
            margins = self._margins(outputs, objective)
            margin = (margins if counted is None else margins * counted).sum(1)
            length = (shown - images).square().flatten(1).sum(1)
            cost = length - weight * margin
            (gradient,) = torch.autograd.grad(cost.sum(), place)
            with torch.no_grad():
                closer = self._reached(outputs, objective) & moving & (length < size)
                found, size = torch.where(per_image(closer, images), shown, found), torch.where(closer, length, size)
                lowest = torch.where(cost < lowest, cost, lowest)
            if step % max(1, self.steps // CHECKS) == 0:
                moving = moving & ((lowest < before - PROGRESS * before.abs()) | before.isinf())
                before = lowest
                if not bool(moving.any()):
                    break
            place.grad = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
            adam.step()
        return found.detach(), size

    def _margins(self, outputs: Tensor, objective: Objective) -> Tensor:
        """How far each position is past the goal, cut at `confidence` [n, P]; 0 where no label counts."""
        logits, labels, valid = objective.reading.read(outputs, objective.target)
        return (_side(objective) * lead(logits, labels)).clamp(max=self.confidence) * valid

    def _reached(self, outputs: Tensor, objective: Objective) -> Tensor:
        """Whether the goal is reached [n] even with the labels' scores moved `confidence` logits against it."""
        logits, labels, _ = objective.reading.read(outputs.detach(), objective.target)
        handicap = torch.full_like(logits[:, :1], -_side(objective) * self.confidence)
        return objective.reached(logits.scatter_add(1, labels[:, None], handicap).view(outputs.shape))


def _side(objective: Objective) -> float:
    """1 where the label's score is to rise, -1 where it is to fall."""
    return 1.0 if objective.wants else -1.0
