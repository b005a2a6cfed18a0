"""Stream: every image once a pass, the same order for the same seed, randomness that place and step decide."""

import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

import robustrestore as rr
from robustrestore.training.stream import Stream, _Drawn


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


def test_what_was_written_otherwise_than_meant_is_named() -> None:
    x, y = torch.rand(4, 3, 2, 2), torch.arange(4)
    for alone in ({"images": x, "target": y}, rr.Batch(x, y)):
        with pytest.raises(TypeError, match=r"write \[batch\]"):
            Stream(alone, 2, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"in batch 1: one batch alone is written \[\(images, target\)\]"):
        Stream((x, y), 2, 0)
    with pytest.raises(ValueError, match=r"'target': \[3\]"):
        Stream([(x, y[:3])], 2, 0)
    with pytest.raises(ValueError, match="empty"):
        Stream([(x[:0], y[:0])], 2, 0)
    with pytest.raises(ValueError, match=r"images of one size.*Crops"):
        next(Stream([(x, y), (x[..., :1], y)], 8, 0).portions(0, 1))


def test_a_loader_that_chooses_images_is_refused_others_give_their_data_set() -> None:
    chosen = WeightedRandomSampler([1.0] * 10, 3)
    for loader in (DataLoader(_numbers(), sampler=chosen), DataLoader(_numbers(), batch_sampler=[[0, 1], [2]])):
        with pytest.raises(TypeError, match=r"got a (WeightedRandomSampler|list): .*Subset"):
            Stream(loader, 2, 0)
    assert len(Stream(DataLoader(_numbers(), shuffle=True), 2, 0)) == 10
    x, y = torch.rand(4, 3, 2, 2), torch.arange(4)
    stream = Stream(DataLoader([(x, y)], batch_size=None), 2, 0)  # batches already: its collate function joins none
    assert torch.equal(stream.take([3, 1]).target, torch.tensor([3, 1]))


def test_a_data_set_of_batches_is_read_once_by_its_length_and_seeded() -> None:
    class Batches(Dataset[tuple[Tensor, Tensor]]):
        """No place is out of its range, so that only its length ends it."""

        def __len__(self) -> int:
            return 2

        def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
            return torch.rand(3, 3, 2, 2), torch.full((3,), place % 2)

    first, again = (Stream(Batches(), 2, seed=4) for _ in range(2))
    assert len(first) == 6
    assert torch.equal(first.take(range(6)).images, again.take(range(6)).images)


@pytest.mark.skipif(sys.platform != "linux", reason="workers fork")
def test_a_forked_worker_leaves_the_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with CUDA in use: seeding it in a forked worker raises."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    keys = [[(place, 5)] for place in range(3)]
    loader = DataLoader(_Drawn(Random()), batch_sampler=keys, num_workers=1, collate_fn=list, multiprocessing_context="fork")
    assert len({float(item["images"].mean()) for ((item, _),) in loader}) == 1
