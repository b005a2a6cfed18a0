"""The weighted cross-entropy of SegPGD (Gu et al., 2022)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..loss import ClassLoss


class SegPGDWeighted(ClassLoss, name="seg_pgd_weighted"):
    """Cross-entropy with weight `share` on wrong positions and 1 - `share` on right ones (Gu, Zhao, Tresp and Torr, 2022).

    Towards a wanted map the weights are swapped: positions that show it already count `share`. `attacks.SegPGD` moves the
    share from 0 to a half. The weights move with the image, so that values at two images do not compare.
    """

    comparable = False

    def __init__(self, share: float = 0.25) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected a weight of wrong positions in [0, 1], got {share}")
        self.share = share

    def away(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Weighted cross-entropy [N, P] in nats."""
        return F.cross_entropy(logits, labels, reduction="none") * self._weights(logits, labels)

    def towards(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The negative of the weighted cross-entropy [N, P]."""
        return -F.cross_entropy(logits, labels, reduction="none") * (1 - self._weights(logits, labels))

    def _weights(self, logits: Tensor, labels: Tensor) -> Tensor:
        return torch.where(logits.argmax(1) == labels, 1 - self.share, self.share)
