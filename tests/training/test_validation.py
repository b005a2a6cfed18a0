"""Validation in several processes: every one of them says as much, the idle ones included."""

import pytest
import torch
from toys_training import classifier, colours

import robustrestore as rr


def test_a_process_without_a_batch_adds_nothing_in_the_right_shape() -> None:
    network = classifier()
    whole = rr.Validation(network, colours(), rr.tasks.Classification(), batch=4, limit=6)
    parts = [whole.statistics(torch.device("cpu"), rank, 3) for rank in range(3)]  # two batches
    assert [part[0].shape for part in parts] == [(2,)] * 3
    assert not parts[2][0].any()
    assert whole.values([sum(part[0] for part in parts)]) == whole()


def test_a_device_without_float64_counts_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of MPS nothing but the name is here: batches stay where they are, and what is counted has to."""
    network = classifier()
    whole = rr.Validation(network, colours(), rr.tasks.Classification(), batch=4)
    plain = whole.statistics(torch.device("cpu"))
    monkeypatch.setattr(rr.Batch, "to", lambda self, device: self)
    found = whole.statistics(torch.device("mps"))
    assert [(t.device.type, t.dtype) for t in found] == [("cpu", torch.float64)]
    assert torch.equal(found[0], plain[0])


def test_wrong_arguments_and_images_are_named() -> None:
    network, task = classifier(), rr.tasks.Classification()
    images, labels = colours().tensors
    for name in ("batch", "limit"):
        with pytest.raises(ValueError, match=f"{name}: expected a whole number >= 1, got 0"):
            rr.Validation(network, colours(), task, **{name: 0})
    with pytest.raises(ValueError, match="field target"):
        rr.Validation(network, [images], task)
    with pytest.raises(ValueError, match="divide by 255"):
        rr.Validation(network, [(255 * images, labels)], task)()
