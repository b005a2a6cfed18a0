"""Stream: the batches of a training in an order that a seed and a step decide, so that a killed run goes on where it was."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from ..modes import seeded
from ..recipe import Batch
from ..runs import spawn

Data = Dataset[Any] | DataLoader[Any] | Sequence[Any]
"""A map-style data set, a DataLoader over one, or a list of finished batches (images [N, C, H, W], target, ...)."""


class Stream:
    """`batch` images a step from endless passes over `data`, each pass in another order; no image is left out.

    Of a DataLoader the data set, the collate function and the workers are used; the order and the size of batches are ours.
    Randomness in the data set (torch, numpy, random) is seeded by step and place, whoever loads it.
    """

    def __init__(self, data: Data, batch: int, seed: int) -> None:
        self.collate: Any = default_collate
        self.workers = 0
        if isinstance(data, DataLoader):
            _check_order(data)
            self.collate, self.workers, data = data.collate_fn, data.num_workers, data.dataset
        if isinstance(data, IterableDataset | Mapping) or not (hasattr(data, "__getitem__") and isinstance(data, Sized)):
            hint = "without places a killed run cannot be taken up again"
            raise TypeError(
                f"data: expected a data set with a length and places (map-style), a DataLoader over one, or a list of batches, "
                f"got {type(data).__name__}: {'write [batch]' if isinstance(data, Mapping | Batch) else hint}"
            )
        if len(data) == 0:
            raise ValueError("data: expected at least one image, got an empty data set")
        self.batch, self.seed = batch, seed
        item, _ = _Drawn(data)[0, spawn(seed, "first")]
        self.data: Any = data
        if _finished(item):
            self.data, self.collate = _Flat(data, seed), default_collate
        if len(self.data) == 0:
            raise ValueError("data: expected at least one image, got empty batches")

    def __len__(self) -> int:
        """How many images a pass has."""
        return len(self.data)

    def places(self, step: int) -> list[int]:
        """The places of one step's images."""
        count = len(self.data)
        return [self._order(p // count)[p % count] for p in range(step * self.batch, (step + 1) * self.batch)]

    def _order(self, epoch: int) -> list[int]:
        if getattr(self, "_known", (None,))[0] != epoch:
            own = torch.Generator().manual_seed(spawn(self.seed, f"epoch {epoch}"))
            self._known = epoch, torch.randperm(len(self.data), generator=own).tolist()
        order: list[int] = self._known[1]
        return order

    def first(self) -> Batch:
        """One image, to see what there is."""
        return self._batch([(0, spawn(self.seed, "first"))])

    def take(self, places: Iterable[int]) -> Batch:
        """The images at these places, drawn the same way each time."""
        return self._batch([(place, spawn(self.seed, f"take {place}")) for place in places])

    def _batch(self, keys: list[tuple[int, int]]) -> Batch:
        drawn = _Drawn(self.data)
        return _Collate(self.collate)([drawn[key] for key in keys])

    def portions(self, start: int, stop: int, rank: int = 0, world: int = 1, accumulate: int = 1) -> Iterator[list[Batch]]:
        """For each step the portions of this process, one after the other: every `world`-th image, in `accumulate` parts."""

        def keys() -> Iterator[list[tuple[int, int]]]:  # made as they are needed: a training may have a million steps
            for step in range(start, stop):
                yield from _split(self._keys(step)[rank::world], accumulate)

        loader = DataLoader(
            _Drawn(self.data),
            batch_sampler=keys(),
            num_workers=self.workers,
            collate_fn=_Collate(self.collate),
            generator=torch.Generator().manual_seed(0),
        )
        source = iter(loader)
        for _ in range(start, stop):
            yield [next(source) for _ in range(accumulate)]

    def _keys(self, step: int) -> list[tuple[int, int]]:
        return [(place, spawn(self.seed, f"{step}/{k}")) for k, place in enumerate(self.places(step))]


class _Drawn(Dataset[Any]):
    """(item, place) of a data set by (place, seed): what it draws depends on the seed alone."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, int]:
        place, seed = key
        others = random.getstate(), np.random.get_state()
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            with seeded(seed):
                return _plain(self.data[place]), place
        finally:
            random.setstate(others[0])
            np.random.set_state(others[1])


class _Flat(Dataset[Any]):
    """Finished batches as single images."""

    def __init__(self, batches: Any, seed: int) -> None:
        drawn = _Drawn(batches)
        self.batches = [_whole(drawn[k, spawn(seed, f"batch {k}")][0], k) for k in range(len(batches))]
        self.where = [(i, j) for i, batch in enumerate(self.batches) for j in range(len(batch.images))]

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        i, j = self.where[place]
        batch = self.batches[i]
        return {name: getattr(batch, name)[j] for name in batch.given() if name != "index"}


def _finished(item: Any) -> bool:
    """Whether an item of the data is a batch already."""
    try:
        return Batch.of(item).images.dim() == 4
    except (TypeError, ValueError):
        return False


def _whole(found: Any, number: int) -> Batch:
    """A finished batch; ValueError unless it has as many of everything."""
    batch = Batch.of(found)
    shapes = {name: list(torch.as_tensor(getattr(batch, name)).shape) for name in batch.given()}
    if len(shapes["images"]) != 4 or any(shape[:1] != shapes["images"][:1] for shape in shapes.values()):
        raise ValueError(
            f"data: expected finished batches, images [N, C, H, W] and N of all else, got {shapes} in batch {number}: one "
            "batch alone is written [(images, target)]"
        )
    return batch


def _check_order(loader: DataLoader[Any]) -> None:
    """TypeError where a DataLoader chooses images in a way of its own, which would be lost."""
    usual: tuple[type, ...] = (SequentialSampler, RandomSampler, DistributedSampler)
    inner = getattr(loader.batch_sampler, "sampler", loader.sampler)
    for sampler, fine in ((inner, usual), (loader.batch_sampler, (BatchSampler, type(None)))):
        if not isinstance(sampler, fine):
            raise TypeError(
                f"data: expected a DataLoader in plain or shuffled order, got a {type(sampler).__name__}: the order of a "
                "training is the plan's; hand over the data set, of some images torch.utils.data.Subset(data_set, places)"
            )


def _split(keys: list[Any], parts: int) -> list[list[Any]]:
    size = len(keys) // parts
    return [keys[k * size : (k + 1) * size] for k in range(parts)]


def _plain(item: Any) -> Any:
    """A Batch as a mapping, which collates."""
    return {name: getattr(item, name) for name in item.given() if name != "index"} if isinstance(item, Batch) else item


class _Collate:
    """Items with their places to a Batch."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, items: list[tuple[Any, int]]) -> Batch:
        try:
            batch = Batch.of(self.collate([item for item, _ in items]))
        except RuntimeError as error:
            if "equal size" not in str(error):
                raise
            raise ValueError(
                f"data: expected images of one size, got several in one batch ({error}): cut pieces of one size out of them, "
                "rr.data.Crops(data, (height, width))"
            ) from error
        return Batch(batch.images, batch.target, batch.clean, torch.tensor([place for _, place in items]))
