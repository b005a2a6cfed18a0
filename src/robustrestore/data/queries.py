"""Images to ask a target about: public ones without their labels, mixed, noisy, random; and whether two sets share any."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..arguments import whole
from ..certify import Noise
from ..certify.bounds import check_counts
from ..files import digest
from ..modes import generator
from ..oracle import Queried
from ..runs import spawn


class Unlabelled(Dataset[Tensor]):
    """The images of `dataset` alone, whatever else its items hold: public data, of the target's domain or of another.

    Several sets make one by `torch.utils.data.ConcatDataset`.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        """Nothing is read yet."""
        self.dataset = dataset

    def __len__(self) -> int:
        """As many."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Tensor:
        """The image [C, H, W]."""
        return image_of(self.dataset, index)


class Mixed(Dataset[Tensor]):
    """`count` mixtures of two images each (mixup: Zhang et al., 2018), their share uniform in [0, 1]; our choice.

    Item k is the same at every reading, so it is paid for once.
    """

    def __init__(self, dataset: Dataset[Any], count: int, seed: int = 0) -> None:
        """Nothing is read yet."""
        if len(dataset) < 2:  # type: ignore[arg-type]
            raise ValueError(f"dataset: expected two images or more to mix, got {len(dataset)}")  # type: ignore[arg-type]
        self.dataset, self.count, self.seed = dataset, whole(count, "count"), whole(seed, "seed", 0)

    def __len__(self) -> int:
        """`count`."""
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        """The mixture [C, H, W]; ValueError for two images of different sizes."""
        own = generator(spawn(self.seed, f"mixture {_place(index, self.count)}"))
        first, second = torch.randperm(len(self.dataset), generator=own)[:2].tolist()  # type: ignore[arg-type]
        one, other = image_of(self.dataset, first), image_of(self.dataset, second)
        if one.shape != other.shape:
            raise ValueError(f"expected images of one size, got {list(one.shape)} and {list(other.shape)}: crop them first")
        return torch.lerp(one, other, float(torch.rand((), generator=own)))


class Noisy(Dataset[Tensor]):
    """`copies` noisy copies of each image of `dataset`, clamped to [0, 1], for a target is asked about images.

    Item k is copy k % copies of image k // copies, the same at every reading, so it is paid for once.
    """

    def __init__(self, dataset: Dataset[Any], noise: Noise, copies: int = 1, seed: int = 0) -> None:
        """Nothing is read yet."""
        if not isinstance(noise, Noise):
            raise TypeError(f"noise: expected one such as rr.certify.Gaussian(0.25), got {type(noise).__name__}")
        self.dataset, self.noise, self.copies, self.seed = dataset, noise, whole(copies, "copies"), whole(seed, "seed", 0)

    def __len__(self) -> int:
        """Images times copies."""
        return len(self.dataset) * self.copies  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Tensor:
        """The noisy image [C, H, W]."""
        place = _place(index, len(self))
        image = image_of(self.dataset, place // self.copies)[None]
        drawn = self.noise.sample_like(image, generator(spawn(self.seed, f"copy {place}"), image.device))
        return self.noise.applied(image, drawn)[0].clamp(0, 1)


class RandomFields(Dataset[Tensor]):
    """`count` images that need no data: even draws on a grid, interpolated, with cells of 1, 2, 4 ... pixels by chance.

    Nothing learns here: a generator trained against the surrogate, as in data-free extraction (Truong et al., 2021), takes
    millions of queries. Item k is the same at every reading, so it is paid for once. All of it is our choice.
    """

    def __init__(self, count: int, shape: Sequence[int], seed: int = 0) -> None:
        """`shape`: (C, H, W) of an image."""
        check_counts(count=count)
        if not isinstance(shape, Sequence) or len(shape) != 3:
            raise ValueError(f"shape: expected three whole numbers (C, H, W), got {shape!r}")
        check_counts(**dict(zip(("channels", "height", "width"), shape, strict=True)))
        self.count, self.shape, self.seed = int(count), tuple(int(length) for length in shape), whole(seed, "seed", 0)

    def __len__(self) -> int:
        """`count`."""
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        """The image [C, H, W]."""
        own = generator(spawn(self.seed, f"field {_place(index, self.count)}"))
        channels, height, width = self.shape
        halvings = int(torch.randint(0, max(1, min(height, width).bit_length()), (), generator=own))
        grid = (max(2, height >> halvings), max(2, width >> halvings))
        coarse = torch.rand(1, channels, *grid, generator=own)
        return nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)[0]


class Answered(Dataset[tuple[Tensor, Tensor]]):
    """The images of `dataset` with a target's answers for their truth, so that a `Validation` measures agreement with it.

    Each answer is paid for once, when it is first read; not for workers of a loader. With the noise's `Noisy` images it is
    agreement under noise.
    """

    def __init__(self, dataset: Dataset[Any], oracle: Queried) -> None:
        """Nothing is asked yet."""
        self.dataset, self.oracle = dataset, oracle

    def __len__(self) -> int:
        """As many."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """(image, what the target says of it: a label, a label map or an image)."""
        image = image_of(self.dataset, index)
        return image, self.oracle.tier.truth(self.oracle(image[None]))[0]


def overlap(first: Dataset[Any], second: Dataset[Any]) -> int:
    """How many images of `second` are in `first` too, value for value: 0 for sets that are to be disjoint."""
    known = {digest(image_of(first, k)) for k in range(len(first))}  # type: ignore[arg-type]
    return sum(digest(image_of(second, k)) in known for k in range(len(second)))  # type: ignore[arg-type]


def image_of(dataset: Dataset[Any], index: int) -> Tensor:
    """The image of an item: the item, its first part, or its field "images"."""
    found = dataset[index]
    image = found["images"] if isinstance(found, dict) else found[0] if isinstance(found, list | tuple) else found
    if not isinstance(image, Tensor) or image.dim() != 3 or not image.is_floating_point():
        told = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"item {index}: expected an image [C, H, W] as float tensor, got {told}")
    return image


def _place(index: int, count: int) -> int:
    if not -count <= index < count:
        raise IndexError(f"expected a place below {count}, got {index}")
    return index % count
