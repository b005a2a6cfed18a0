"""Divergence (Zhang et al., 2019): how far the answer has moved from the model's own answer to the clean image."""

from collections.abc import Callable
from dataclasses import replace as changed

import torch
from torch import Tensor

from ..loss import Loss
from ..task import Classes, Objective


class Divergence(Loss, name="divergence"):
    """The distance to the clean output, no label needed (TRADES, Zhang et al., 2019): KL(clean || attacked), in nats.

    Summed over classes, mean over labelled positions; for images the mean squared difference to the clean output, our
    choice. Asks the model once. Its gradient is zero at the clean image, so an attack has to start off it; whether the goal
    is targeted plays no part.
    """

    def run(self, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> Objective:
        """The clean answer, kept as context, and the distance to it as the measure."""
        classes = objective.classes
        with torch.no_grad():
            outputs = model(images)
            clean = _wide(outputs) if classes is None else _shares(outputs, objective.target, classes)

        def measure(outputs: Tensor, target: Tensor, clean: Tensor) -> Tensor:
            return _apart(clean, outputs, target, classes)

        return changed(objective, measure=measure, context=(clean,))


def divergence(clean: Tensor, outputs: Tensor, objective: Objective) -> Tensor:
    """The same between two outputs, [N], with gradients in both: what TRADES minimises."""
    classes = objective.classes
    answer = _wide(clean) if classes is None else _shares(clean, objective.target, classes)
    return _apart(answer, outputs, objective.target, classes)


def _apart(clean: Tensor, outputs: Tensor, target: Tensor, classes: Classes | None) -> Tensor:
    """Squared difference of images, or KL(clean || outputs) where `clean` holds log-probabilities [N, C, P]."""
    if classes is None:
        return (_wide(outputs) - clean).square().flatten(1).mean(1)
    _, _, valid = classes.read(outputs, target)
    apart = clean - _shares(outputs, target, classes)
    distance = (clean.exp() * apart.where(clean.isfinite(), 0.0)).sum(1)  # a class that is masked out counts nothing
    return (distance * valid).sum(1) / valid.sum(1).clamp(min=1)


def _wide(outputs: Tensor) -> Tensor:
    return outputs if outputs.dtype.itemsize > 4 else outputs.float()


def _shares(outputs: Tensor, target: Tensor, classes: Classes) -> Tensor:
    """Log-probabilities [N, C, P]."""
    return classes.read(outputs, target)[0].log_softmax(1)
