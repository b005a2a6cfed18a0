"""JPEG as a degradation: blocks and lost detail."""

from collections.abc import Sequence

from torch import Tensor

from .. import purifiers
from ..degradation import Degradation


class Jpeg(Degradation, name="jpeg"):
    """Baseline JPEG at `quality` 1..100: the arithmetic of `purifiers.Jpeg`, whose rounding counts as the identity backward."""

    def __init__(self, quality: int = 10) -> None:
        super().__init__()
        purifiers.Jpeg(quality)  # raises for what is no quality
        self.quality = quality

    def run(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        """Code and decode; nothing in it is random."""
        coded: Tensor = purifiers.Jpeg(self.quality)(images)
        return coded
