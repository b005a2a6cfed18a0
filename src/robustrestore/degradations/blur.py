"""Blur as a degradation: an image out of focus."""

from collections.abc import Sequence

from torch import Tensor

from .. import purifiers
from ..degradation import Degradation


class Blur(Degradation, name="blur"):
    """Gaussian blur with standard deviation `sigma` pixels: the arithmetic of `purifiers.Blur`."""

    def __init__(self, sigma: float = 2.0) -> None:
        super().__init__()
        self.sigma = purifiers.Blur(sigma).sigma  # raises for what is no width

    def run(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        """Filter; nothing in it is random."""
        filtered: Tensor = purifiers.Blur(self.sigma)(images)
        return filtered
