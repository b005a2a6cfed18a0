"""The difference-of-logits ratio and its targeted form (Croce and Hein, 2020): margins without a scale."""

from collections.abc import Callable
from dataclasses import replace as changed

import torch
from torch import Tensor

from ..loss import ClassLoss, Loss
from ..task import Objective
from .margin import lead

ROUNDING, TINY = 1e-6, 1e-12  # below this share of the largest logit a difference of float32 logits says nothing


class DLR(ClassLoss, name="dlr"):
    """(best wrong score - true score) / (largest - third largest score) (Croce and Hein, 2020): in [-1, 1] while right.

    Logits times a constant give the same value, so a model that is sure of itself hides no gradient. A targeted goal
    raises the same ratio of the wanted class's lead. Needs three classes; where all three scores are equal it is 0.
    """

    def away(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The ratio [N, P]; ValueError with fewer than three classes."""
        top = _largest(logits, 3, type(self).__name__)
        return -lead(logits, labels) / _spread(logits, top[:, 0] - top[:, 2])


class TargetedDLR(Loss, name="targeted_dlr"):
    """DLR towards one wrong class (Croce and Hein, 2020): the `rank`-th likeliest one at the clean image, 1 the first.

    (its score - the true score) / (largest - mean of third and fourth largest score), the mean over labelled positions; in
    a map each pixel has its own class. With a targeted goal, its negative: from that class to the wanted one. Asks the
    model once; needs four classes.
    """

    def __init__(self, rank: int = 1) -> None:
        if rank < 1:
            raise ValueError(f"rank: expected a whole number >= 1, 1 for the likeliest wrong class, got {rank}")
        self.rank = rank

    def run(self, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> Objective:
        """The classes to go for, kept as context, and their ratio as the measure."""
        classes, name = objective.reading, type(self).__name__
        with torch.no_grad():
            logits, labels, _ = classes.read(model(images), objective.target)
        if not 1 <= self.rank < logits.shape[1]:
            raise ValueError(f"{name}: expected a rank below the {logits.shape[1]} classes, got {self.rank}")
        wrong = logits.scatter(1, labels[:, None], -torch.inf)
        rivals = wrong.topk(self.rank, dim=1).indices[:, -1]
        sign = -1.0 if objective.towards else 1.0

        def measure(outputs: Tensor, target: Tensor, rivals: Tensor) -> Tensor:
            logits, labels, valid = classes.read(outputs, target)
            top = _largest(logits, 4, name)
            gap = _scores(logits, rivals) - _scores(logits, labels)
            values = gap / _spread(logits, top[:, 0] - (top[:, 2] + top[:, 3]) / 2)
            return sign * (values * valid).sum(1) / valid.sum(1).clamp(min=1)

        return changed(objective, measure=measure, context=(rivals,))


def _scores(logits: Tensor, chosen: Tensor) -> Tensor:
    return logits.gather(1, chosen[:, None])[:, 0]


def _largest(logits: Tensor, count: int, name: str) -> Tensor:
    if logits.shape[1] < count:
        raise ValueError(
            f"{name}: expected scores of at least {count} classes, got {logits.shape[1]}: use losses.Margin() instead"
        )
    return logits.topk(count, dim=1).values


def _spread(logits: Tensor, difference: Tensor) -> Tensor:
    """`difference` [N, P], held above what rounding leaves of it: with tied scores the ratio stays finite."""
    scores = logits.detach()  # a class may be masked out with -inf
    floor = (scores.abs().where(scores.isfinite(), 0.0).amax(1) * ROUNDING).clamp(min=TINY)
    return torch.maximum(difference, floor)
