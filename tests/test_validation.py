"""Validation in several processes: every one of them says as much, the idle ones included."""

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
