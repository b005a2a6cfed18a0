"""Degradation: how nature spoils an image."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from .component import Component
from .images import check_images, clamp


class Degradation(Component, nn.Module, kind="degradations"):
    """Images in [0, 1] to spoiled images of the same shape, the same ones every time. Plug-ins write `run`."""

    def __init__(self) -> None:
        super().__init__()

    @final  # type: ignore[misc]
    def forward(self, images: Tensor, keys: Sequence[int] | None = None) -> Tensor:
        """Spoil images [N, C, H, W]; image k gets the randomness of `keys[k]`, by default of its place in the batch."""
        check_images(images)
        numbers = list(range(len(images))) if keys is None else [int(key) for key in keys]
        if len(numbers) != len(images):
            raise ValueError(f"keys: expected one for each of {len(images)} images, got {len(numbers)}")
        return clamp(self.run(images, numbers)) if len(images) else images

    @abstractmethod
    def run(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        """The work; the same key gives the same randomness."""


def keyed(seed: int, key: int) -> torch.Generator:
    """The CPU generator that belongs to one key of a degradation with this seed."""
    return torch.Generator().manual_seed(seed * 1_000_003 + key)
