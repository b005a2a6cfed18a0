"""Median filter (feature squeezing of Xu, Evans and Qi, 2018)."""

from torch import Tensor
from torch.nn import functional as F

from ..arguments import whole
from ..stage import Purifier


class Median(Purifier, name="median"):
    """The median of each `size` x `size` neighbourhood per channel, edges replicated (Xu, Evans and Qi, 2018).

    Differentiable: the gradient goes to the pixel that is the median.
    """

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.size = whole(size, "size")
        if self.size % 2 == 0:
            raise ValueError(f"size: expected an odd number of pixels >= 1, got {size}")

    def run(self, images: Tensor) -> Tensor:
        """Unfold and sort."""
        radius = self.size // 2
        padded = F.pad(images, (radius, radius, radius, radius), mode="replicate")
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
        return windows.flatten(4).median(dim=4).values
