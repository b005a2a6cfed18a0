"""What is told apart and what is not: functions and the plain attributes of modules."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from toys import Gain

from robustrestore.identity import of_attributes, of_callable

Function = Callable[..., Any]


def _closure(value: Any) -> Function:
    return lambda pipeline: (pipeline, value)


def _default(value: Any) -> Function:
    def view(pipeline: Any, given: Any = value) -> Any:
        return pipeline, given

    return view


def _keyword(value: Any) -> Function:
    def view(pipeline: Any, *, given: Any = value) -> Any:
        return pipeline, given

    return view


def _partial(value: Any) -> Function:
    return functools.partial(_closure, value)


def _named(value: Any) -> Function:
    return functools.partial(_closure, value=value)


WAYS = [_closure, _default, _keyword, _partial, _named]


class _Bare:
    """Prints as its place in memory."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "make",
    [
        lambda k: k,
        lambda k: [0.5, k],
        lambda k: Gain(float(k)),  # other weights
        lambda k: nn.Dropout(k / 10),
        lambda k: nn.ZeroPad2d(k) if k else nn.ReLU(),
        _closure,
        _partial,
    ],
    ids=["number", "list", "weights", "attribute", "class", "function", "partial"],
)
def test_what_a_function_brings_along_counts(way: Callable[[Any], Function], make: Callable[[int], Any]) -> None:
    assert of_callable(way(make(1))) == of_callable(way(make(1)))
    assert of_callable(way(make(1))) != of_callable(way(make(2)))


def test_what_a_function_does_counts() -> None:
    functions: list[Function] = [lambda p: p, lambda p: p.predict, lambda p: p + 1, lambda p: p + 2, lambda p: lambda: 1]
    functions += [lambda p: lambda: 2]
    assert len({of_callable(function) for function in functions}) == len(functions)


def test_a_place_in_memory_does_not_count() -> None:
    first, second = _Bare(), _Bare()
    assert of_callable(_closure(first)) == of_callable(_closure(second))


def test_a_function_that_calls_itself_has_a_print() -> None:
    def halve(pipeline: Any, times: int = 3) -> Any:
        return halve(pipeline, times - 1) if times else pipeline

    assert of_callable(halve) == of_callable(halve)


def test_plain_attributes_of_all_parts_count_and_the_mode_does_not() -> None:
    module = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.LeakyReLU(0.2)))
    before = of_attributes(module)
    assert of_attributes(module.eval()) == before
    module[1][0].negative_slope = 0.3
    after = of_attributes(module)
    assert after != before
    module[1][0].negative_slope = 0.2
    assert of_attributes(module) == before
    module[0].table = torch.zeros(2)  # tensors are not looked at: weights have a fingerprint of their own
    assert of_attributes(module) == before
