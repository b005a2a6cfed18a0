"""PSFs of displays in front of a lens, by simulation: Fraunhofer diffraction at the holes of the display.

Optics of the camera in UPC (Yang and Sankaranarayanan, 2021): f = 10 mm, aperture 4 mm, 610/530/470 nm, pixels of 2 um, a
display that repeats every 168 um. The pupil is sampled every 8 um, the focal plane every 0.5 um.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from .psf import PSF

WAVELENGTHS = (610e-9, 530e-9, 470e-9)  # metres: red, green, blue
FOCAL_LENGTH, APERTURE, PITCH, PIXEL = 10e-3, 4e-3, 168e-6, 2e-6
_STEP, _SHARE = 8e-6, 4  # pupil sampling; focal samples along a pixel
_CELLS = 7  # of a random tile, along each side

Mask = Callable[[Tensor, Tensor], Tensor]


def diffracted(mask: Mask, size: int) -> Tensor:
    """|Fourier transform of aperture x mask|^2 summed over pixels: [3, size, size], channels summing to 1.

    `mask(y, x)`: the share of light that passes at places in metres. A pixel's centre is on the axis, so nothing is shifted.
    """
    count = round(APERTURE / _STEP)
    place = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * _STEP
    y, x = place[:, None], place[None]
    pupil = (((y**2 + x**2) <= (APERTURE / 2) ** 2) * mask(y, x)).to(torch.complex64)
    focal = (torch.arange(_SHARE * size, dtype=torch.float64) - (_SHARE * size - 1) / 2) * PIXEL / _SHARE
    found = []
    for wavelength in WAVELENGTHS:
        waves = torch.exp(-2j * math.pi / (wavelength * FOCAL_LENGTH) * focal[:, None] * place[None]).to(torch.complex64)
        light = (waves @ pupil @ waves.T).abs().square()
        found.append(light.view(size, _SHARE, size, _SHARE).sum(dim=(1, 3)))
    kernel = torch.stack(found)
    return kernel / kernel.sum(dim=(1, 2), keepdim=True)


class Display(PSF):
    """The PSF of a display: final classes say where light passes. `size` in pixels, odd: 293 holds nearly all of the light.

    A smaller one cuts the tails off and spreads their light over the rest: faster, and with less flare.
    """

    size: int

    @final
    def run(self) -> Tensor:
        """Computed once for equal settings."""
        if self.size < 1 or self.size % 2 == 0:
            raise ValueError(f"size: expected an odd number of pixels, got {self.size}")
        return self.simulated()

    @abstractmethod
    def simulated(self) -> Tensor:
        """The kernel [3, size, size]."""


class TOLED(Display, name="toled"):
    """Plain slits, the openings of a T-OLED display: `share` of the pitch is open, turned by `angle` degrees.

    Plain slits are our choice; share and optics are those of UPC (Yang and Sankaranarayanan, 2021). Light falls into orders
    every wavelength x f / pitch: 18.2, 15.8 and 14.0 pixels for red, green and blue.
    """

    def __init__(self, size: int = 293, share: float = 0.2072, angle: float = 0.0) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share: expected a share in (0, 1], got {share}")
        self.size, self.share, self.angle = size, float(share), float(angle)

    def simulated(self) -> Tensor:
        """Slits along the y axis at angle 0."""
        return _slits(self.size, self.share, self.angle)


class POLED(Display, name="poled"):
    """A random opening in every 168 um tile, turned and mirrored anew from tile to tile: the diffuse tails of a P-OLED.

    Tile, turns and `share` are our choice (24 um cells; turned tiles fill the zeros of the transfer function, after an option
    of UPC's code). Each `seed` is another display. `share` of the light stays in place, the rest is spread: 0.25 is a harsh
    display, 0.9 a mild one.
    """

    def __init__(self, size: int = 293, share: float = 0.25, seed: int = 0) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share: expected a share in (0, 1], got {share}")
        self.size, self.share, self.seed = size, float(share), seed

    def simulated(self) -> Tensor:
        """Tiles beside each other over the whole aperture."""
        return _tiles(self.size, self.share, self.seed)


@lru_cache(maxsize=32)
def _slits(size: int, share: float, angle: float) -> Tensor:
    turn = math.radians(angle)
    inside = (torch.arange(64, dtype=torch.float64) + 0.5) / 64 - 0.5  # edges are averaged over a pupil sample

    def mask(y: Tensor, x: Tensor) -> Tensor:
        across = x * math.cos(turn) + y * math.sin(turn)
        passed: Tensor = sum((((across + s * _STEP) / PITCH) % 1 < share).double() for s in inside) / len(inside)
        return passed

    return diffracted(mask, size)


@lru_cache(maxsize=32)
def _tiles(size: int, share: float, seed: int) -> Tensor:
    own = torch.Generator().manual_seed(seed)
    order = torch.rand(_CELLS * _CELLS, generator=own).argsort()
    tile = torch.zeros(_CELLS * _CELLS, dtype=torch.float64)
    tile[order[: max(1, round(share * len(tile)))]] = 1
    samples = round(PITCH / _STEP)
    one = F.interpolate(tile.view(1, 1, _CELLS, _CELLS), (samples, samples), mode="nearest")[0, 0]
    turned = torch.stack([torch.rot90(side, k) for side in (one, one.flip(0)) for k in range(4)])
    along = math.ceil(APERTURE / PITCH)
    picked = turned[torch.randint(0, 8, (along, along), generator=own)]
    whole = picked.permute(0, 2, 1, 3).reshape(along * samples, along * samples)
    return diffracted(lambda y, x: whole[: y.shape[0], : x.shape[1]], size)
