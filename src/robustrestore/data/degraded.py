"""Clean data, degraded on the fly: pairs for training without a second folder."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ..degradation import Degradation
from ..weights import fingerprint
from .fields import Fields


class Degraded(Dataset[Fields]):
    """Every image of `dataset` under every one of `degradations`, as `Fields`; the same at every reading.

    `dataset` yields images (the target is the clean image) or (image, target): CamVid in the rain is
    `Degraded(CamVid(root, "train"), Rain())`. Item k is image k // n under degradation k % n, and the image's place is the
    key of its randomness: several seeds make several rains of one image. Take other seeds for testing than for training.
    """

    def __init__(self, dataset: Dataset[Any], degradations: Degradation | Sequence[Degradation]) -> None:
        """Nothing is read yet."""
        found = [degradations] if isinstance(degradations, Degradation) else list(degradations)
        if not found or not all(isinstance(one, Degradation) for one in found):
            raise TypeError(f"degradations: expected a Degradation or several, got {degradations!r}")
        self.dataset, self.degradations = dataset, found

    @classmethod
    def split(
        cls, dataset: Dataset[Any], degradations: Sequence[Degradation], share: float = 0.2, seed: int = 0
    ) -> tuple["Degraded", "Degraded"]:
        """For training and for testing, with neither an image nor a degradation in common: `share` of both is for testing.

        For an under-display camera: a split by scene and by PSF. ValueError for fewer than two of either, and for two equal
        degradations.
        """
        prints = [(repr(one), fingerprint(one)) for one in degradations]
        if len(set(prints)) < len(prints):
            raise ValueError("degradations: expected all of them to differ, got two that are equal: one could be on both sides")
        images = _parted(len(dataset), share, seed, "images")  # type: ignore[arg-type]
        kinds = _parted(len(degradations), share, seed, "degradations")
        train, test = (cls(Subset(dataset, i), [degradations[k] for k in d]) for i, d in zip(images, kinds, strict=True))
        return train, test

    def __len__(self) -> int:
        """Images times degradations."""
        return len(self.dataset) * len(self.degradations)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Fields:
        """One image under one degradation."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"expected a place below {len(self)}, got {index}")
        place, which = divmod(index % len(self), len(self.degradations))
        found = self.dataset[place]
        clean, target = (found, found) if isinstance(found, Tensor) else found
        with torch.no_grad():
            images = self.degradations[which](clean[None], [place])[0]
        return Fields(images=images, target=target, clean=clean)


def _parted(count: int, share: float, seed: int, what: str) -> tuple[list[int], list[int]]:
    """Places for training and for testing, at least one each, in order."""
    if count < 2 or not 0 < share < 1:
        raise ValueError(f"expected 2 {what} or more and a share in (0, 1), got {count} and {share}: nothing to part")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    held = min(count - 1, max(1, round(share * count)))
    return sorted(order[held:]), sorted(order[:held])
