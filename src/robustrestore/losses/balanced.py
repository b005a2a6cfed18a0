"""The class-balanced masked cross-entropy of SEA (Croce, Singh and Hein, 2024)."""

import torch
from torch import Tensor

from ..loss import ClassLoss
from .masked import MaskedCrossEntropy


class BalancedCrossEntropy(ClassLoss, name="balanced_cross_entropy"):
    """Masked cross-entropy in which rare classes count as much as common ones (Croce, Singh and Hein, ECCV 2024).

    For mean IoU, where a small class weighs what a large one does. The paper weighs by class frequency. Our choice of a
    weight: each class that an image's labels hold has the same total weight, and the weights' mean over the image is 1.
    """

    comparable = False

    def away(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Weighted cross-entropy [N, P] in nats where the label wins, 0 elsewhere."""
        return MaskedCrossEntropy().away(logits, labels, valid) * _weights(labels, valid, logits)

    def towards(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The negative of the weighted cross-entropy [N, P] where another class wins, 0 elsewhere."""
        return MaskedCrossEntropy().towards(logits, labels, valid) * _weights(labels, valid, logits)


def _weights(labels: Tensor, valid: Tensor, logits: Tensor) -> Tensor:
    """Positions that count / (classes present * positions of this class) [N, P]."""
    counts = torch.zeros(len(labels), logits.shape[1], device=labels.device).scatter_add(1, labels, valid.float())
    present = (counts > 0).sum(1, keepdim=True).clamp(min=1)
    share = present * counts.gather(1, labels).clamp(min=1)
    return valid.sum(1, keepdim=True) / share
