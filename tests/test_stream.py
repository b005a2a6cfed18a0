"""Stream: every image once a pass, the same order for the same seed, randomness that place and step decide."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import robustrestore as rr
from robustrestore.stream import Stream


class Random(Dataset[dict[str, Tensor]]):
    """Images that three generators draw."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        value = torch.rand(()) + random.random() + float(np.random.rand())
        return {"images": torch.full((3, 2, 2), float(value) / 3), "target": torch.tensor(place)}


def _numbers(count: int = 10) -> TensorDataset:
    return TensorDataset(torch.rand(count, 3, 2, 2), torch.arange(count))


def test_each_pass_shows_each_image_once_in_another_order() -> None:
    stream = Stream(_numbers(10), batch=4, seed=3)
    seen = [place for step in range(10) for place in stream.places(step)]
    passes = [seen[k : k + 10] for k in range(0, 40, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    assert Stream(_numbers(10), batch=4, seed=3).places(7) == stream.places(7)
    assert Stream(_numbers(10), batch=4, seed=4).places(7) != stream.places(7)


def test_processes_and_portions_share_a_step() -> None:
    stream = Stream(_numbers(), batch=8, seed=0)
    whole = [batch.index.tolist() for (batch,) in stream.portions(2, 4)]
    parts = [list(stream.portions(2, 4, rank, world=2, accumulate=2)) for rank in range(2)]
    for step in range(2):
        found = [place for rank in parts for batch in rank[step] for place in batch.index.tolist()]
        assert sorted(found) == sorted(whole[step]) == sorted(stream.places(2 + step))
        assert all(len(batch.images) == 2 for rank in parts for batch in rank[step])


@pytest.mark.parametrize("workers", [0, 1])
def test_randomness_depends_on_seed_and_step_alone(workers: int) -> None:
    loader = DataLoader(Random(), batch_size=3, num_workers=workers)
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    late = next(iter(Stream(loader, 4, seed=5).portions(3, 4)))[0]
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])
    torch.rand(3)
    *_, (same,) = Stream(Random(), 4, seed=5).portions(0, 4)
    assert torch.equal(late.images, same.images)
    assert len(late.images.flatten(1)[:, 0].unique()) == 4


def test_finished_batches_and_batches_of_ours() -> None:
    x, y = torch.rand(5, 3, 2, 2), torch.arange(5)
    stream = Stream([(x[:3], y[:3]), (x[3:], y[3:])], batch=5, seed=0)
    (batch,) = next(iter(stream.portions(0, 1)))
    assert torch.equal(batch.images, x[batch.index])
    assert torch.equal(batch.target, y[batch.index])
    ours = [rr.Batch(image, clean=image) for image in x]
    (batch,) = next(iter(Stream(ours, batch=2, seed=0).portions(0, 1)))
    assert batch.given() == ("images", "clean", "index")
    assert torch.equal(Stream(_numbers(), 2, 0).take([4, 1]).target, torch.tensor([4, 1]))


def test_what_has_no_places_is_refused() -> None:
    class Endless(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            yield torch.zeros(3, 2, 2)

    for data in (Endless(), iter([1, 2]), 5):
        with pytest.raises(TypeError, match="map-style"):
            Stream(data, 2, 0)
    with pytest.raises(ValueError, match="empty"):
        Stream([], 2, 0)


def test_a_long_training_begins_at_once() -> None:
    """The order of 10^12 steps is never written down."""
    (batch,) = next(iter(Stream(_numbers(), 2, 0).portions(10**11, 10**12)))
    assert len(batch.images) == 2
