"""Any function of (model, images, target) as an attack: the way in for code that belongs to no library."""

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..attack import Attack, Model
from ..identity import of_callable
from ..task import Objective
from ..threat import Threat, as_threat
from ._peers import Sealed, better_of, drawing

Function = Callable[[Any, Tensor, Tensor], Tensor]


class Called(Attack, name="called"):
    """A function `(model, images, target) -> attacked images` as an attack, with the promises of every other one.

    It is handed the model as a module of [0, 1] images that gives one tensor; what it returns is brought into the threat,
    and per image the better one, clean or attacked, is kept. It has to know by itself whether `target` is the truth or what
    is wanted. A function of a module is kept as text, "package.module:name", and so can be saved; as text it is looked up
    among the modules that are imported already, never imported, so that a saved part brings no code. `seed`: for what it
    draws from the global generators of PyTorch, NumPy and Python. Raises ValueError where the text names no such function.
    """

    def __init__(self, threat: Threat, function: str | Function, seed: int | None = 0) -> None:
        self.threat, self.function, self.seed = as_threat(threat), _named(function), seed

    def hidden(self) -> list[Function]:
        """The function itself: its text stays the same when it is edited."""
        return [_found(self.function)] if isinstance(self.function, str) else []

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """What the function finds, or the original where that serves the objective more."""
        function = _found(self.function) if isinstance(self.function, str) else self.function
        with drawing(self.seed):
            found = function(Sealed(model, images), images.clone(), objective.target)
        if not isinstance(found, Tensor) or found.shape != images.shape:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"{self.function}: expected images {list(images.shape)}, got {got}")
        return better_of(model, images, found, self, objective)


class _Local:
    """A function that no text can name; its repr tells others apart and is the same in every process."""

    def __init__(self, function: Function) -> None:
        self.function = function

    def __call__(self, model: Any, images: Tensor, target: Tensor) -> Tensor:
        return self.function(model, images, target)

    def __repr__(self) -> str:
        return f"<{of_callable(self.function)}>"


def _named(function: str | Function) -> str | Function:
    """As text where that finds the same function again."""
    if isinstance(function, _Local):
        return function
    if isinstance(function, str):
        if not all(function.partition(":")):
            raise ValueError(f"function: expected package.module:name, got {function!r}")
        return function
    if not callable(function):
        raise TypeError(f"function: expected a function of (model, images, target), got {type(function).__name__}")
    text = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
    try:
        return text if _found(text) is function else _Local(function)
    except ValueError:
        return _Local(function)


def _found(text: str) -> Function:
    module, _, path = text.partition(":")
    thing: Any = sys.modules.get(module)
    for name in path.split("."):
        thing = getattr(thing, name, None)
    if not callable(thing):
        raise ValueError(f"function: expected {text!r} to be a function of a module that is imported: import {module} first")
    found: Function = thing
    return found
