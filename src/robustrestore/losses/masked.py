"""The masked cross-entropy of SEA (Croce, Singh and Hein, 2024)."""

from torch import Tensor
from torch.nn import functional as F

from ..loss import ClassLoss


class MaskedCrossEntropy(ClassLoss, name="masked_cross_entropy"):
    """Cross-entropy of the positions that are still right (Croce, Singh and Hein, ECCV 2024); targeted: not yet as wanted.

    The mask moves with the image, so that values at two images do not compare.
    """

    comparable = False

    def away(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Cross-entropy [N, P] in nats where the label wins, 0 elsewhere."""
        return F.cross_entropy(logits, labels, reduction="none") * (logits.argmax(1) == labels)

    def towards(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The negative of the cross-entropy [N, P] where another class wins, 0 elsewhere."""
        return -F.cross_entropy(logits, labels, reduction="none") * (logits.argmax(1) != labels)
