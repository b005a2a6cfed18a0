"""Photographs as scenes with highlights, for cameras behind a display."""

from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from ..degradations import pseudo_hdr, tone_map


class Scenes(Dataset[Tensor]):
    """The images of `dataset` as tone-mapped scenes [3, H, W] in [0, 1): `tone_map(pseudo_hdr(image))`.

    What `UnderDisplay` takes, and what a restored picture is compared with. Of (image, target) the target is dropped.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        """Nothing is read yet."""
        self.dataset = dataset

    def __len__(self) -> int:
        """The number of images."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Tensor:
        """One scene."""
        found = self.dataset[index]
        image = found if isinstance(found, Tensor) else found[0]
        return tone_map(pseudo_hdr(image[None]))[0]
