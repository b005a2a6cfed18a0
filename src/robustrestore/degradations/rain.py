"""Rain: seeded streaks in several depths, and the haze of distant rain."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..degradation import Degradation

_LAYERS = 3  # near streaks are long, wide and few; far ones short, thin and many


def _streak(length: float, width: float, angle: float) -> Tensor:
    """A line kernel [1, 1, K, K] that peaks at 1: Gaussian across, `length` pixels along `angle` (degrees from vertical)."""
    radius = math.ceil(length / 2 + 2 * width)
    y, x = torch.meshgrid(*[torch.arange(-radius, radius + 1, dtype=torch.float32)] * 2, indexing="ij")
    turn = math.radians(angle)
    along, across = y * math.cos(turn) + x * math.sin(turn), x * math.cos(turn) - y * math.sin(turn)
    ends = (length / 2 - along.abs()).clamp(-1, 0) + 1
    return (torch.exp(-((across / width) ** 2)) * ends)[None, None]


def _convolve(drops: Tensor, kernel: Tensor) -> Tensor:
    """`drops` [1, 1, H, W] convolved with an odd kernel, zeros outside; by FFT, since streaks are long."""
    height, width, size = *drops.shape[-2:], kernel.shape[-1]
    whole = (height + size - 1, width + size - 1)
    full: Tensor = torch.fft.irfft2(torch.fft.rfft2(drops, whole) * torch.fft.rfft2(kernel, whole), whole)
    middle = full[..., size // 2 : size // 2 + height, size // 2 : size // 2 + width]
    return middle.clamp(min=0)


class Rain(Degradation, name="rain"):
    """Rain streaks and haze. Differentiable in the image; the same key and settings give the same rain.

    `angle`: degrees from vertical, +- 5 per image; above 0 streaks lean like a backslash. `length`: of the nearest
    streaks, in pixels. `density`: streaks per 1000 pixels over all layers. `brightness`: of a streak, in [0, 1] units.
    `haze`: share of grey veil at the far end; the top row counts as far and the bottom row as near. `blend`: "add", the
    model of most deraining data, or "screen", 1 - (1 - image)(1 - rain), which does not saturate.

    The layers and their sizes are our choice; additive streak layers after Yang et al. (2017), haze of distant
    rain after Hu et al. (2019).
    """

    def __init__(
        self,
        angle: float = 10.0,
        length: float = 18.0,
        density: float = 6.0,
        brightness: float = 0.5,
        haze: float = 0.15,
        blend: Literal["add", "screen"] = "add",
        seed: int = 0,
    ) -> None:
        super().__init__()
        for what, value in (("density", density), ("brightness", brightness), ("haze", haze)):
            if not value >= 0:
                raise ValueError(f"{what}: expected a value >= 0, got {value}")
        if haze > 1:
            raise ValueError(f"haze: expected a share in [0, 1], got {haze}")
        if not length >= 1:
            raise ValueError(f"length: expected at least 1 pixel, got {length}")
        if blend not in ("add", "screen"):
            raise ValueError(f'blend: expected "add" or "screen", got {blend!r}')
        self.angle, self.length, self.density = float(angle), float(length), float(density)
        self.brightness, self.haze, self.blend, self.seed = float(brightness), float(haze), blend, seed

    def streaks(self, height: int, width: int, key: int) -> Tensor:
        """The rain layer [1, 1, height, width] of one key, in [0, 1]."""
        own = torch.Generator().manual_seed(self.seed * 1_000_003 + key)
        angle = self.angle + float(torch.rand((), generator=own)) * 10 - 5
        layer = torch.zeros(1, 1, height, width)
        shares = [2.0**k for k in range(_LAYERS)]
        for depth, share in enumerate(shares):
            chance = self.density / 1000 * share / sum(shares)
            place = torch.rand(1, 1, height, width, generator=own) < chance
            strength = 0.4 + 0.6 * torch.rand(1, 1, height, width, generator=own)
            kernel = _streak(max(1.0, self.length * 0.65**depth), 0.9 * 0.75**depth, angle)
            drops = _convolve(place * strength, kernel)
            layer = torch.maximum(layer, drops * 0.85**depth)
        return (layer * self.brightness).clamp(0, 1)

    def run(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        """Veil, then streaks."""
        height, width = images.shape[-2:]
        rain = torch.cat([self.streaks(height, width, key) for key in keys]).to(images) if keys else images[:, :1]
        far = torch.linspace(1, 0, height, device=images.device, dtype=images.dtype).view(1, 1, -1, 1)
        veil = self.haze * far
        veiled = images * (1 - veil) + 0.8 * veil
        return veiled + rain if self.blend == "add" else 1 - (1 - veiled) * (1 - rain)
