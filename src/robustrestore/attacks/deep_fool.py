"""DeepFool (Moosavi-Dezfooli, Fawzi and Frossard, 2016): the shortest way over the nearest linearised boundary."""

import math

import torch
from torch import Tensor

from ..attack import Attack, Model
from ..images import per_image
from ..search import Search
from ..task import Objective
from ..threat import Threat, as_threat

LEAST = 1e-4  # in the threat's units: a shorter step, from two equal scores say, is lost in rounding


class DeepFool(Attack, name="deep_fool"):
    """Steps to the nearest of the linearised class boundaries until the label changes (Moosavi-Dezfooli et al., 2016).

    Near is what the threat says: in L2 |f| / ||w||_2, in Linf |f| / ||w||_1. The `candidates` likeliest wrong classes are
    looked at, and the whole change is lengthened by `overshoot`. Pixels at the edge of [0, 1] that a step would take out are
    left where they are, our choice. A targeted goal, which the paper has not, goes to the boundary with the class that now
    leads. What needs more than the threat is projected at the end.
    """

    fills = False
    answers = ("label",)

    def __init__(self, threat: Threat, steps: int = 50, candidates: int = 10, overshoot: float = 0.02) -> None:
        for what, count in (("steps", steps), ("candidates", candidates)):
            if count < 1:
                raise ValueError(f"{what}: expected a whole number >= 1, got {count}")
        if not 0 <= overshoot < math.inf:
            raise ValueError(f"overshoot: expected a share >= 0 such as 0.02, got {overshoot}")
        self.threat, self.steps, self.candidates, self.overshoot = as_threat(threat), steps, candidates, overshoot

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Step until the goal is reached, image by image."""
        search = Search(model, images, objective)
        search.gradient(images)  # the clean image counts too; a model without gradient is named
        found, left = images.clone(), torch.arange(len(images), device=images.device)
        for _ in range(self.steps):
            goal, shown = objective.at(left), found[left].requires_grad_()
            outputs = model(shown)
            still = (~goal.reached(outputs)).nonzero()[:, 0]
            if len(still) == 0:
                break
            step, left = self._step(outputs, shown, goal)[still], left[still]
            original, longer = images[left], 1 + self.overshoot
            change = (found[left] - original) / longer + step
            found[left] = (original + longer * change).clamp(0, 1)
        search.look(self.threat.project(found, images))
        return search.result()

    def _step(self, outputs: Tensor, shown: Tensor, goal: Objective) -> Tensor:
        """The shortest change to the nearest boundary; 0 for an image without any gradient."""
        logits, label, _ = goal.reading.read(outputs, goal.target)
        scores, towards = logits[:, :, 0], goal.wants
        count = 1 if towards else min(self.candidates, scores.shape[1] - 1)
        rivals = scores.scatter(1, label, -torch.inf).topk(count, dim=1).indices
        nearest, step = torch.full_like(scores[:, 0], math.inf), torch.zeros_like(shown)
        for k in range(count):
            rival = rivals[:, k : k + 1]
            gap = (scores.gather(1, rival) - scores.gather(1, label))[:, 0] * (-1 if towards else 1)
            (slope,) = torch.autograd.grad(gap.sum(), shown, retain_graph=True)
            distance, way = self._way(gap.detach(), torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0), shown.detach())
            closer = distance < nearest
            nearest = torch.where(closer, distance, nearest)
            step = torch.where(per_image(closer, step), way, step)
        return step

    def _way(self, gap: Tensor, slope: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """How far a linear gap [n] is from 0, by the threat's dual norm of its slope, and the change that takes it there."""
        outwards = ((images >= 1) & (slope > 0)) | ((images <= 0) & (slope < 0))
        slope = torch.where(outwards, 0.0, slope)
        direction = self.threat.steepest(slope)
        dual = (slope * direction).flatten(1).sum(1)
        distance = torch.where(dual > 0, (gap.abs() / dual).clamp(min=LEAST), math.inf)
        return distance, direction * per_image(torch.where(dual > 0, distance, 0.0), images)
