"""The noise of a sensor: photons that arrive at random, and the electronics that read them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..degradation import Degradation, keyed
from ..images import straight_through

READ_NOISE, FULL_WELL = 4.87, 15_506.0  # electrons
LEVELS = {24: 273.0, 28: 654.0, 32: 1608.0, 36: 4005.0, 40: 10_024.0}  # signal to noise of white in dB: its electrons


def electrons(light: Tensor, white: float, own: torch.Generator) -> Tensor:
    """Poisson(white x light) + N(0, 4.87^2), what the sensor counts; backward the mean, for counting has no derivative."""
    mean = light * white
    rate = mean.detach().to("cpu", torch.float64).clamp(min=0)  # drawn in one place, so that every device gets the same
    drawn = torch.poisson(rate, generator=own) + READ_NOISE * torch.randn(rate.shape, generator=own, dtype=torch.float64)
    return straight_through(drawn.to(mean), mean)


class SensorNoise(Degradation, name="sensor_noise"):
    """Photon and read noise as in UPC (Yang and Sankaranarayanan, 2021): (Poisson(white x) + N(0, 4.87^2)) / white.

    `white`: the electrons of light 1; above the full well of 15506 bright light is cut. Images are taken for linear light.
    """

    def __init__(self, white: float = 1608.0, seed: int = 0) -> None:
        super().__init__()
        if not white > 0:
            raise ValueError(f"white: expected electrons > 0, got {white}")
        self.white, self.seed = float(white), seed

    @classmethod
    def at(cls, decibel: int, seed: int = 0) -> "SensorNoise":
        """One of the paper's five levels: white has a signal to noise ratio of 24, 28, 32, 36 or 40 dB."""
        if decibel not in LEVELS:
            raise ValueError(f"decibel: expected one of {list(LEVELS)}, got {decibel}")
        return cls(LEVELS[decibel], seed)

    def run(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        """Counted and scaled back, image by image."""
        counted = [electrons(one, self.white, keyed(self.seed, key)) for one, key in zip(images, keys, strict=True)]
        return torch.stack(counted).clamp(max=FULL_WELL) / self.white
