"""PSF: how optics spread a point of light, channel by channel; and one that somebody measured."""

from abc import abstractmethod
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..component import Component


class PSF(Component, nn.Module, kind="psfs"):
    """A point spread function in linear light. Plug-ins write `run`; called, it is `run` with each channel's sum at 1."""

    def __init__(self) -> None:
        super().__init__()

    @final  # type: ignore[misc]
    def forward(self) -> Tensor:
        """The kernel [C, K, K], K odd, its centre at K // 2; ValueError for any other, and for negative or no light."""
        kernel = self.run()
        if kernel.dim() != 3 or kernel.shape[1] != kernel.shape[2] or kernel.shape[1] % 2 == 0:
            raise ValueError(f"{type(self).__name__}: expected a kernel [C, K, K] with K odd, got {list(kernel.shape)}")
        sums = kernel.sum(dim=(1, 2), keepdim=True)
        if not (bool((kernel >= 0).all()) and bool((sums > 0).all()) and bool(sums.isfinite().all())):
            raise ValueError(f"{type(self).__name__}: expected finite values >= 0 and some light in every channel")
        return kernel / sums

    @abstractmethod
    def run(self) -> Tensor:
        """The kernel up to its scale."""


class StoredPSF(PSF, name="stored_psf"):
    """A PSF that you measured: made by `of` or `load`, saved with the part. Untouched it is a point.

    Measure it in linear light (no gamma) and cut readout noise away first: a floor of noise spreads light over the image.
    """

    values: Tensor

    def __init__(self, size: int = 1, channels: int = 3) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0 or channels < 1:
            raise ValueError(f"expected an odd size and a channel or more, got size {size} and {channels} channels")
        self.size, self.channels = size, channels
        point = torch.zeros(channels, size, size)
        point[:, size // 2, size // 2] = 1
        self.register_buffer("values", point)

    @classmethod
    def of(cls, values: Tensor) -> "StoredPSF":
        """From a kernel [C, K, K]. An even K (centre at K // 2, as after fftshift) gets a last row and column of 0."""
        if values.dim() != 3 or values.shape[1] != values.shape[2]:
            raise ValueError(
                f"values: expected a square kernel [C, K, K], got {list(values.shape)}: move channels to the front"
            )
        more = 1 - values.shape[-1] % 2
        made = cls(values.shape[-1] + more, values.shape[0])
        made.values.copy_(F.pad(values.detach(), (0, more, 0, more)))
        made()  # raises where it is no PSF
        return made

    @classmethod
    def load(cls, file: str | Path) -> "StoredPSF":
        """From a .npy file [K, K, C], as DISCNet (Feng et al., 2021) hands its PSFs out, or [C, K, K]; pickles are refused."""
        try:
            array = np.load(file, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{file}: expected a .npy file of numbers: {error}") from error
        values = torch.as_tensor(np.asarray(array, dtype=np.float32))
        return cls.of(values.permute(2, 0, 1) if values.dim() == 3 and values.shape[2] < values.shape[0] else values)

    def run(self) -> Tensor:
        """The stored values."""
        return self.values
