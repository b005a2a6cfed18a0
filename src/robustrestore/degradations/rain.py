"""Rain: seeded streaks in several depths, and the haze of distant rain."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ..degradation import Degradation, keyed
from ._convolve import convolve

Blend = Literal["add", "screen", "depth"]
_LAYERS = 3  # near streaks are long, wide and few; far ones short, thin and many
_AIR = 0.8  # grey of the haze
_FADE, _NEAREST = 1.0, 0.2  # "depth": how fast streaks fade with the distance of what is behind them, and from where on
_SEVERITIES = (  # density, brightness, length, haze
    *((2.0, 0.3, 12.0, 0.05), (4.0, 0.4, 15.0, 0.1), (6.0, 0.5, 18.0, 0.15)),
    *((9.0, 0.6, 22.0, 0.22), (14.0, 0.7, 28.0, 0.3)),
)


def _streak(length: float, width: float, angle: float) -> Tensor:
    """A line kernel [1, K, K] that peaks at 1: Gaussian across, `length` pixels along `angle` (degrees from vertical)."""
    radius = math.ceil(length / 2 + 2 * width)
    y, x = torch.meshgrid(*[torch.arange(-radius, radius + 1, dtype=torch.float32)] * 2, indexing="ij")
    turn = math.radians(angle)
    along, across = y * math.cos(turn) + x * math.sin(turn), x * math.cos(turn) - y * math.sin(turn)
    ends = (length / 2 - along.abs()).clamp(-1, 0) + 1
    return (torch.exp(-((across / width) ** 2)) * ends)[None]


class Rain(Degradation, name="rain"):
    """Rain streaks and haze. Differentiable in the image; the same key and settings give the same rain.

    `angle`: degrees from vertical, +- 5 per image; above 0 streaks lean like a backslash. `length`: of the nearest
    streaks, in pixels. `density`: streaks per 1000 pixels over all layers. `brightness`: of a streak, in [0, 1] units.
    `haze`: share of grey veil at the far end; the top row counts as far and the bottom row as near. `blend`: "add", the
    model of most deraining data; "screen", 1 - (1 - image)(1 - rain), which does not saturate; or "depth", the rain of Hu
    et al. (2019), image (1 - rain - veil) + rain + grey veil, where streaks fade and haze grows with distance.

    The layers and their sizes are our choice, and so is distance by row; additive streak layers after Yang et al. (2017).
    """

    def __init__(
        self,
        angle: float = 10.0,
        length: float = 18.0,
        density: float = 6.0,
        brightness: float = 0.5,
        haze: float = 0.15,
        blend: Blend = "add",
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
        if blend not in get_args(Blend):
            raise ValueError(f"blend: expected one of {get_args(Blend)}, got {blend!r}")
        self.angle, self.length, self.density = float(angle), float(length), float(density)
        self.brightness, self.haze, self.blend, self.seed = float(brightness), float(haze), blend, seed

    @classmethod
    def severity(cls, level: int, blend: Blend = "add", seed: int = 0) -> "Rain":
        """Rain from a drizzle (1) to a cloudburst (5), levels as in ImageNet-C (Hendrycks and Dietterich, 2019), values ours.

        3 is the default rain.
        """
        if level not in range(1, len(_SEVERITIES) + 1):
            raise ValueError(f"level: expected 1..{len(_SEVERITIES)}, got {level}")
        density, brightness, length, haze = _SEVERITIES[level - 1]
        return cls(length=length, density=density, brightness=brightness, haze=haze, blend=blend, seed=seed)

    def streaks(self, height: int, width: int, key: int) -> Tensor:
        """The rain layer [1, 1, height, width] of one key, in [0, 1]."""
        own = keyed(self.seed, key)
        angle = self.angle + float(torch.rand((), generator=own)) * 10 - 5
        layer = torch.zeros(1, 1, height, width)
        shares = [2.0**k for k in range(_LAYERS)]
        for depth, share in enumerate(shares):
            chance = self.density / 1000 * share / sum(shares)
            place = torch.rand(1, 1, height, width, generator=own) < chance
            strength = 0.4 + 0.6 * torch.rand(1, 1, height, width, generator=own)
            kernel = _streak(max(1.0, self.length * 0.65**depth), 0.9 * 0.75**depth, angle)
            drops = convolve(place * strength, kernel).clamp(min=0)
            layer = torch.maximum(layer, drops * 0.85**depth)
        return (layer * self.brightness).clamp(0, 1)

    def run(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        """Veil, then streaks; by distance, both at once."""
        height, width = images.shape[-2:]
        rain = torch.cat([self.streaks(height, width, key) for key in keys]).to(images)
        far = torch.linspace(1, 0, height, device=images.device, dtype=images.dtype).view(1, 1, -1, 1)
        if self.blend == "depth":
            rain = rain * torch.exp(-_FADE * far.clamp(min=_NEAREST))
            veil = 1 - torch.exp(far * math.log(max(1 - self.haze, 1e-6)))
            return images * (1 - rain - veil).clamp(min=0) + rain + _AIR * veil
        veil = self.haze * far
        veiled = images * (1 - veil) + _AIR * veil
        return veiled + rain if self.blend == "add" else 1 - (1 - veiled) * (1 - rain)
