"""What is told apart and what is not: functions and the plain attributes of modules."""

import functools
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from toys import Gain

import robustrestore as rr
from robustrestore.certify.stream import fingerprint
from robustrestore.identity import of_attributes, of_callable
from robustrestore.reach import modules_in, unseen

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
    module.weight = nn.Parameter(torch.ones(1))  # weights have a fingerprint of their own
    assert of_attributes(module) == before


class Wrap:
    """An object that is called and holds a network."""

    def __init__(self, net: Any) -> None:
        self.net = net

    def __call__(self, images: Any) -> Any:
        return self.net(images)


class Slotted:
    __slots__ = ("net",)

    def __init__(self, net: Any) -> None:
        self.net = net

    def __call__(self, images: Any) -> Any:
        return self.net(images)


class Holds(nn.Module):
    """A module that keeps something in a plain attribute or in a buffer that is not saved."""

    def __init__(self, value: Any, unsaved: bool = False) -> None:
        super().__init__()
        if unsaved:
            self.register_buffer("value", value, persistent=False)
        else:
            self.value = value


def _big(k: int) -> torch.Tensor:
    """Tensors whose repr is the same."""
    values = torch.zeros(100, 100)
    values[50, 50] = k
    return values


def _scaled(k: int) -> Function:
    return functools.partial(torch.mul, other=k)


NET = Gain(1.0)


def _of_global(k: int) -> Function:
    NET.gain = nn.Parameter(torch.tensor(float(k)))
    return lambda images: NET(images)


TOLD = {
    "object with a network": lambda k: Wrap(Gain(float(k))),
    "object with slots": lambda k: Slotted(Gain(float(k))),
    "networks in a list": lambda k: _closure([Gain(1.0), Gain(float(k))]),
    "networks in a dict of tuples": lambda k: _closure({"a": (Gain(float(k)),)}),
    "networks of an object in a list": lambda k: _closure([Wrap([Gain(float(k))])]),
    "large tensor": lambda k: _closure(_big(k)),
    "large tensor of a module": lambda k: Holds(_big(k)),
    "array": lambda k: _closure(_big(k).numpy()),
    "buffer that is not saved": lambda k: Holds(_big(k), unsaved=True),
    "function of a module": lambda k: Holds(_closure(k)),
    "partial of a module": lambda k: Holds(_scaled(k)),
    "unregistered networks of a module": lambda k: Holds([Gain(float(k))]),
    "global of the same file": _of_global,
    "bound method": lambda k: Wrap(Gain(float(k))).__call__,
    "queried target": lambda k: rr.oracle.Queried(Gain(float(k))),
    "tier": lambda k: rr.oracle.Queried(NET, rr.oracle.Images() if k == 1 else rr.oracle.Logits()),
    "queried target of a pipeline": lambda k: rr.DefendedPipeline(rr.oracle.Queried(Gain(float(k)))),
}


@pytest.mark.parametrize("make", TOLD.values(), ids=TOLD)
def test_models_that_act_otherwise_are_told_apart(make: Callable[[int], Any]) -> None:
    prints = [fingerprint(make(k)) for k in (1, 1, 2)]
    assert prints[0] == prints[1]
    assert prints[1] != prints[2]
    assert unseen(make(1)) == []


def test_classes_of_one_name_are_told_apart_by_their_code() -> None:
    def made(k: int) -> nn.Module:
        space: dict[str, Any] = {"nn": nn, "__name__": "mine"}
        exec(f"class Net(nn.Module):\n    def forward(self, x):\n        return x + {k}\n", space)
        return space["Net"]()  # type: ignore[no-any-return]

    assert fingerprint(made(1)) == fingerprint(made(1)) != fingerprint(made(2))


def test_what_was_asked_of_a_target_does_not_count() -> None:
    target = rr.oracle.Queried(Gain(0.5), rr.oracle.Images())
    before = fingerprint(target), of_attributes(target), repr(rr.DefendedPipeline(target))
    target(torch.rand(3, 3, 4, 4))
    assert (fingerprint(target), of_attributes(target), repr(rr.DefendedPipeline(target))) == before


def test_what_cannot_be_seen_is_named_and_circles_end() -> None:
    assert unseen(_closure(iter([1]))) == ["builtins.list_iterator"]
    assert unseen(Holds(sqlite3.connect(":memory:"))) == ["sqlite3.Connection"]
    first, second = Wrap(None), Wrap(None)
    first.net, second.net = second, [first]
    assert fingerprint(first) == fingerprint(first)
    assert unseen(first) == []


def test_modules_are_found_behind_functions() -> None:
    nets = [Gain(float(k)) for k in range(6)]
    model = _closure([nets[0], Wrap({"a": nets[1]}), functools.partial(_closure, nets[2]), Holds([nets[3]]), nets[4].forward])
    found = modules_in(model)
    assert all(any(one is net for one in found) for net in nets[:5])
    assert not any(one is nets[5] for one in found)
    assert any(one is NET for one in modules_in(lambda images: NET(images)))
