"""Gaussian blur: the baseline that a purifier has to beat."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..arguments import number
from ..stage import Purifier, full_precision


class Blur(Purifier, name="blur"):
    """Gaussian blur with standard deviation `sigma` pixels, cut at 3 sigma, edges replicated. Differentiable."""

    def __init__(self, sigma: float = 1.0) -> None:
        super().__init__()
        self.sigma = number(sigma, "sigma", "a finite width > 0 in pixels", lambda value: value > 0)

    @full_precision
    def run(self, images: Tensor) -> Tensor:
        """Rows, then columns."""
        radius = max(1, math.ceil(3 * self.sigma))
        x = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
        kernel = torch.exp(-(x**2) / (2 * self.sigma**2))
        kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
        padded = F.pad(images, (radius, radius, radius, radius), mode="replicate")
        across = F.conv2d(padded, kernel, groups=images.shape[1])
        return F.conv2d(across, kernel.transpose(2, 3), groups=images.shape[1])
