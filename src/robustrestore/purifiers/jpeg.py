"""JPEG as a purifier (Dziugaite, Ghahramani and Roy, 2016), in PyTorch, with gradients."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..arguments import whole
from ..images import straight_through
from ..stage import Purifier, full_precision

# Quantisation tables of ITU-T T.81 (1992), annex K, for quality 50.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))


def _table(numbers: str, quality: int, like: Tensor) -> Tensor:
    base = torch.tensor([int(n) for n in numbers.split()], device=like.device, dtype=like.dtype)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality  # whole numbers, as in every codec since libjpeg
    return ((base * scale + 50) / 100).floor().clamp(1, 255).view(8, 8)


def _dct(like: Tensor) -> Tensor:
    """The orthonormal 8-point DCT-II as a matrix."""
    k = torch.arange(8, device=like.device, dtype=like.dtype)
    matrix = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


def _round(values: Tensor) -> Tensor:
    return straight_through(values.round(), values)


def _coded(plane: Tensor, table: Tensor) -> Tensor:
    """One plane [N, 1, H, W], 0..255, H and W divisible by 8, through quantised 8x8 blocks."""
    n, _, height, width = plane.shape
    blocks = plane.view(n, height // 8, 8, width // 8, 8).transpose(2, 3) - 128
    matrix = _dct(plane)
    quantised = _round(matrix @ blocks @ matrix.T / table) * table
    return (matrix.T @ quantised @ matrix).transpose(2, 3).reshape(n, 1, height, width) + 128


class Jpeg(Purifier, name="jpeg"):
    """Baseline JPEG at `quality` 1..100, chroma at half resolution (Dziugaite et al., 2016; ITU-T T.81).

    Three channels are coded as YCbCr, one as luma. The decoded values are those of a usual codec up to its rounding.
    Rounding counts as the identity backward, so an adaptive attack is never blinded.
    """

    multiple = 16

    def __init__(self, quality: int = 50) -> None:
        super().__init__()
        self.quality = whole(quality, "quality", most=100)

    @full_precision
    def run(self, images: Tensor) -> Tensor:
        """Code and decode."""
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images: expected 1 or 3 channels for JPEG, got {images.shape[1]}")
        wide = images if images.dtype.itemsize >= 4 else images.float()
        luma, chroma = (_table(numbers, self.quality, wide) for numbers in (_LUMA, _CHROMA))
        if images.shape[1] == 1:
            return _round(_coded(wide * 255, luma)).to(images) / 255
        matrix = torch.tensor(_TO_YCC, device=wide.device, dtype=wide.dtype)
        ycc = torch.einsum("dc,nchw->ndhw", matrix, wide * 255)
        planes = [_coded(ycc[:, :1], luma)]
        for plane in (ycc[:, 1:2], ycc[:, 2:3]):
            small = _coded(F.avg_pool2d(plane + 128, 2), chroma)
            planes.append(F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False) - 128)
        rgb = torch.einsum("cd,ndhw->nchw", torch.linalg.inv(matrix), torch.cat(planes, dim=1))
        return (_round(rgb) / 255).to(images)
