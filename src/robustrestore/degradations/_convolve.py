"""Convolution with kernels too large for a direct one: by FFT, zeros outside the image."""

import torch
from torch import Tensor


def convolve(images: Tensor, kernel: Tensor) -> Tensor:
    """`images` [N, C, H, W] with `kernel` [C or 1, K, K], K odd, its centre at K // 2: a true convolution of the same size."""
    height, width, size = *images.shape[-2:], kernel.shape[-1]
    whole = (height + size - 1, width + size - 1)
    full: Tensor = torch.fft.irfft2(torch.fft.rfft2(images, whole) * torch.fft.rfft2(kernel, whole), whole)
    return full[..., size // 2 : size // 2 + height, size // 2 : size // 2 + width]
