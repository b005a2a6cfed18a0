"""A purifier for robustrestore in a package of its own."""

from torch import Tensor

import robustrestore as rr


class MedianPlus(rr.Purifier, name="median_plus"):
    """A share of the median filter, the rest of the image as it was."""

    def __init__(self, share: float = 0.5, size: int = 3) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected a value in [0, 1], got {share}")
        self.share, self.size = float(share), size
        self.median = rr.purifiers.Median(size)

    def run(self, images: Tensor) -> Tensor:
        """Mix the two."""
        return images + self.share * (self.median(images) - images)
