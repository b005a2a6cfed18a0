"""Random crops of fields, so that images of any size make batches."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .fields import Fields


class Crops(Dataset[Fields]):
    """Each item of `dataset` (`Fields`, or a pair (image, target)) cut to `size` (height, width) at a random place.

    The same place in every field of the image's size; others stay. Places come from PyTorch's global generator, which `fit`
    seeds for every step; `flip` mirrors left and right half of the time. Leave it where what is learnt has a direction, as the
    PSF of a display. ValueError for an image smaller than `size`.
    """

    def __init__(self, dataset: Dataset[Any], size: tuple[int, int], flip: bool = False) -> None:
        """Nothing is read yet."""
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size: expected (height, width) in pixels, got {size!r}")
        self.dataset, self.size, self.flip = dataset, size, flip

    def __len__(self) -> int:
        """One item for each of the data set's."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Fields:
        """A fresh crop at every reading."""
        found = self.dataset[index]
        item: Fields = Fields(images=found[0], target=found[1], clean=found[1]) if isinstance(found, tuple) else found
        whole = item["images"].shape[-2:]
        if whole[0] < self.size[0] or whole[1] < self.size[1]:
            raise ValueError(
                f"item {index}: expected at least {list(self.size)} pixels, got {list(whole)}: take a smaller size"
            )
        top, left = (int(torch.randint(0, w - s + 1, ())) for w, s in zip(whole, self.size, strict=True))
        mirrored = self.flip and bool(torch.rand(()) < 0.5)

        def cut(field: Tensor) -> Tensor:
            if not isinstance(field, Tensor) or field.shape[-2:] != whole:  # a label, say
                return field
            piece = field[..., top : top + self.size[0], left : left + self.size[1]]
            return piece.flip(-1) if mirrored else piece.clone()

        return Fields(images=cut(item["images"]), target=cut(item["target"]), clean=cut(item["clean"]))
