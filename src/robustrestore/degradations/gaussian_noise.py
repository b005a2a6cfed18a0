"""White Gaussian noise, as denoisers are trained with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..degradation import Degradation, keyed


class GaussianNoise(Degradation, name="gaussian_noise"):
    """Independent Gaussian noise of standard deviation `sigma`, in units of [0, 1] images: 25/255, not 25."""

    def __init__(self, sigma: float = 25 / 255, seed: int = 0) -> None:
        super().__init__()
        if not sigma >= 0:
            raise ValueError(f"sigma: expected a value >= 0, got {sigma}")
        self.sigma, self.seed = float(sigma), seed

    def run(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        """Drawn on the CPU, so that every device gets the same."""
        drawn = [torch.randn(images.shape[1:], generator=keyed(self.seed, key)) for key in keys]
        return images + self.sigma * torch.stack(drawn).to(images)
