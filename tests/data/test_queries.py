"""Data sets of queries: the same at every reading, in range, and told apart."""

import pytest
import torch
from toys import photos
from toys_certify import Line, images_of

import robustrestore as rr
from robustrestore.data import Answered, Mixed, Noisy, RandomFields, Unlabelled, overlap


def test_items_lose_their_labels() -> None:
    images = photos(3)
    for item in (lambda k: images[k], lambda k: (images[k], 1), lambda k: {"images": images[k], "target": 1}):
        data = Unlabelled([item(k) for k in range(3)])  # type: ignore[arg-type]
        assert len(data) == 3
        assert torch.equal(data[2], images[2])
    with pytest.raises(ValueError, match="expected an image"):
        Unlabelled([torch.zeros(4, dtype=torch.uint8)])[0]  # type: ignore[arg-type]


def test_mixtures_lie_between_two_images_and_repeat_themselves() -> None:
    black, white = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    data = Mixed([black, white], 400, seed=1)  # type: ignore[arg-type]
    values = torch.stack([data[k] for k in range(400)])
    assert torch.equal(values, torch.stack([data[k] for k in range(400)]))
    assert bool((values == values[:, :, :1, :1]).all())  # one share for all pixels
    levels = values[:, 0, 0, 0]
    assert abs(float(levels.mean()) - 0.5) < 0.05  # uniform: standard error 0.014
    assert abs(float(levels.std()) - 12**-0.5) < 0.03


def test_noisy_copies_have_the_noises_spread_and_repeat_themselves() -> None:
    grey = [torch.full((1, 30, 30), 0.5) for _ in range(2)]
    data = Noisy(grey, rr.certify.Gaussian(0.1), copies=3)  # type: ignore[arg-type]
    assert len(data) == 6
    found = torch.stack([data[k] for k in range(6)])
    assert torch.equal(found[4], data[4])
    assert len({float(one.sum()) for one in found}) == 6
    assert float(found.std()) == pytest.approx(0.1, rel=0.05)
    assert float(Noisy(grey, rr.certify.Gaussian(5.0))[0].max()) == 1.0  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        data[6]


def test_answers_are_the_truth_and_shared_images_are_counted() -> None:
    line, images = Line(), images_of(10)
    data = Answered(list(images), rr.oracle.Queried(line))  # type: ignore[arg-type]
    assert [int(data[k][1]) for k in range(10)] == line(images).argmax(1).tolist()
    assert overlap(list(images), list(images_of(10)[7:])) == 3  # type: ignore[arg-type]
    assert overlap(list(images), list(images_of(10, seed=5))) == 0  # type: ignore[arg-type]


def test_random_fields_need_no_data_lie_in_range_repeat_themselves_and_are_of_several_coarsenesses() -> None:
    data = RandomFields(300, (1, 16, 24), seed=2)
    found = torch.stack([data[k] for k in range(len(data))])
    assert found.shape == (300, 1, 16, 24)
    assert torch.equal(found, torch.stack([data[k] for k in range(300)]))
    assert overlap(data, RandomFields(300, (1, 16, 24), seed=3)) == 0
    assert 0 <= float(found.min()) < 0.01 < 0.99 < float(found.max()) <= 1
    steps = (found[..., 1:] - found[..., :-1]).abs().mean((1, 2, 3))
    assert float(steps.max()) == pytest.approx(1 / 3, abs=0.03)  # independent neighbours: the mean of |u - v| is 1 / 3
    assert float(steps.min()) < 0.03  # interpolated from two values across
    for count, shape, told in (
        (0, (1, 4, 4), "count: expected a whole number >= 1, got 0"),
        (2.5, (3, 8, 8), "count: expected a whole number >= 1, got 2.5"),
        (3, (4, 4), r"shape: expected three whole numbers \(C, H, W\), got \(4, 4\)"),
        (3, 8, r"shape: expected three whole numbers \(C, H, W\), got 8"),
        (3, (1, 0, 4), "height: expected a whole number >= 1, got 0"),
        (3, (3, 8.0, 8), "height: expected a whole number >= 1, got 8.0"),
    ):
        with pytest.raises(ValueError, match=told):
            RandomFields(count, shape)  # type: ignore[arg-type]
