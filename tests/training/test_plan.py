"""Plan, optimisers: the schedule's known values, and what is refused."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import robustrestore as rr


def test_warm_up_then_cosine() -> None:
    own = rr.AdamW(lr=2.0, warmup=0.1, floor=0.5)
    assert [own.rate(step, 100) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert own.rate(10, 100) == pytest.approx(2.0)
    assert own.rate(55, 100) == pytest.approx(2.0 * 0.75)
    assert own.rate(100, 100) == pytest.approx(1.0)
    late = 2 * (0.5 + 0.25 * (1 + math.cos(math.pi * 89 / 90)))
    assert own.rate(99, 100) == pytest.approx(late)


def test_optimisers_are_torchs() -> None:
    weights = [nn.Parameter(torch.zeros(2))]
    adam, plain = rr.AdamW(lr=0.1, weight_decay=0.3, beta2=0.9).make(weights), rr.SGD(momentum=0.7).make(weights)
    assert isinstance(adam, torch.optim.AdamW)
    assert adam.defaults["betas"] == (0.9, 0.9)
    assert adam.defaults["weight_decay"] == 0.3
    assert isinstance(plain, torch.optim.SGD)
    assert plain.defaults["momentum"] == 0.7


def test_the_interval_is_a_twentieth_unless_told() -> None:
    assert rr.Plan(steps=200).interval == 10
    assert rr.Plan(steps=7).interval == 1
    assert rr.Plan(steps=7, every=3).interval == 3


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"steps": 0}, ValueError, "steps"),
        ({"steps": 2.5}, ValueError, "steps"),
        ({"batch": True}, ValueError, "batch"),
        ({"batch": 6, "accumulate": 4}, ValueError, "divisor"),
        ({"average": 1.0}, ValueError, "average"),
        ({"clip": 0.0}, ValueError, "clip"),
        ({"precision": "fp8"}, ValueError, "precision"),
        ({"optimiser": torch.optim.Adam}, TypeError, "AdamW"),
    ],
)
def test_bad_plans(settings: dict[str, Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        rr.Plan(**settings)


@pytest.mark.parametrize("settings", [{"lr": 0.0}, {"lr": math.inf}, {"warmup": 1.5}, {"floor": -0.1}])
def test_bad_rates(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        rr.AdamW(**settings)
