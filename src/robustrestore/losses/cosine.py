"""The cosine weight of CosPGD (Agnihotri, Jung and Keuper, 2024)."""

from collections.abc import Callable
from dataclasses import replace as changed

import torch
from torch import Tensor
from torch.nn import functional as F

from ..loss import ClassLoss, Loss
from ..task import Objective
from ._images import difference, each, wide


class CosineWeighted(Loss, name="cosine_weighted"):
    """The loss of each position, weighted by the cosine of prediction and truth (Agnihotri, Jung and Keuper, ICML 2024).

    Classes: cross-entropy, and the softmax (the authors') against the label. Images: squared error, and the softmax over
    the channels of output and target. Towards a wanted answer the weight is 1 - cosine. It is held fixed in the gradient.
    On images in [0, 1] it is close to 1, with one channel exactly 1 (our choice for a wanted image too, where it would be
    0 and give no gradient): there this is the task's own loss.
    """

    comparable = False

    def run(self, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> Objective:
        """The weighted loss, a mean over the positions that count."""
        if objective.classes is not None:
            return _OfClasses()(model, images, objective)
        towards = objective.towards

        def measure(outputs: Tensor, target: Tensor) -> Tensor:
            errors = difference(outputs, target, "target").square()
            found = each(errors * _image_weights(wide(outputs).detach(), wide(target), towards))
            return -found if towards else found

        return changed(objective, measure=measure, context=())


class _OfClasses(ClassLoss):
    def away(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none") * _cosine(logits, labels)

    def towards(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        return -F.cross_entropy(logits, labels, reduction="none") * (1 - _cosine(logits, labels))


def _cosine(logits: Tensor, labels: Tensor) -> Tensor:
    """Cosine [N, P] of the softmax and the one-hot label: the label's probability over the length of them all."""
    probabilities = logits.detach().softmax(1)
    length: Tensor = torch.linalg.vector_norm(probabilities, dim=1)
    return probabilities.gather(1, labels[:, None])[:, 0] / length


def _image_weights(outputs: Tensor, target: Tensor, towards: bool) -> Tensor:
    """Weights [N, 1, H, W]; 1 - cosine as half a squared distance of unit vectors: no rounding turns it negative."""
    if outputs.shape[1] == 1:
        return torch.ones_like(outputs)
    one, other = (F.normalize(images.softmax(1), dim=1) for images in (outputs, target))
    apart = (one - other).square().sum(1, keepdim=True) / 2
    return apart if towards else 1 - apart
