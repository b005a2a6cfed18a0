"""The Jensen-Shannon divergence of SEA (Croce, Singh and Hein, 2024)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..loss import ClassLoss

LN2 = math.log(2)


class JensenShannon(ClassLoss, name="jensen_shannon"):
    """The divergence between the predicted probabilities and the label (SEA, Croce, Singh and Hein, ECCV 2024).

    In nats, at most ln 2. It flattens where a pixel is wrong already, so that the attack spends its budget on the others.
    Depends on the label's log-probability alone and takes no logarithm of a mixture: finite at any gap between logits.
    """

    def away(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The divergence [N, P] from the label."""
        log_p = -F.cross_entropy(logits, labels, reduction="none")
        rest = -torch.expm1(log_p)  # 1 - p, without the cancellation near p = 1
        return (log_p.exp() * log_p + rest * LN2 - (2 - rest) * torch.log1p(-rest / 2)) / 2
