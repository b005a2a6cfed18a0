"""What something is, as text that differs where it would act otherwise: functions, and modules beyond their weights."""

import hashlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .component import Component
from .files import digest
from .reach import PLAIN, attributes, codes, from_library, inside, is_leaf, tells_itself
from .weights import fingerprint

_DEEPEST = 60  # our choice; beyond it a type stands for the value


def of_callable(thing: Callable[..., Any]) -> str:
    """Its name and a digest of all that it acts through: code, defaults, closure, globals of its own file, attributes.

    Of a class its name alone.
    """
    if isinstance(thing, type):
        return _name(thing)
    named = thing if hasattr(thing, "__qualname__") else getattr(thing, "func", None)
    shown = _name(named if hasattr(named, "__qualname__") else type(thing))
    return f"{shown} {_digest(_Teller().text(thing))}"


def of_attributes(module: nn.Module) -> str:
    """A digest of what a module and all its parts hold beyond weights: numbers, texts, tensors, functions, other objects."""
    return _digest(_Teller().parts(module))


def of_settings(value: Any) -> str:
    """What the repr of a part does not tell: weights, modules and functions among its settings, to the bottom.

    Empty where there are none.
    """
    if isinstance(value, list | tuple):
        return "".join(of_settings(one) for one in value)
    own = _Teller().text(value) if isinstance(value, nn.Module) else ""
    if isinstance(value, Component):
        return own + of_settings([*value.settings().values(), *value.hidden()])
    return own or (of_callable(value) if callable(value) else "")


class _Teller:
    """Texts of values, each value told once; a circle ends where it began."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str]] = {}
        self._depth = 0

    def text(self, value: Any) -> str:
        """What tells a value from others, the same in every process."""
        if is_leaf(value):
            return _leaf(value)
        if id(value) not in self._known:
            self._known[id(value)] = value, "itself"
            self._depth += 1
            found = self._told(value) if self._depth <= _DEEPEST else _name(type(value))
            self._depth -= 1
            self._known[id(value)] = value, found if len(found) < 100 else _digest(found)
        return self._known[id(value)][1]

    def parts(self, module: nn.Module) -> str:
        """Every part of a module with what it holds beyond its state."""
        found = []
        for path, part in module.named_modules():
            if tells_itself(part):
                found.append((path, self.text(part)))
            else:
                found.append((path, _class(type(part)), *((name, self.text(one)) for name, one in attributes(part))))
        return repr(found)

    def _told(self, value: Any) -> str:
        if tells_itself(value):
            return f"{_name(type(value))} {value.told_apart_by()}"
        if isinstance(value, nn.Module):
            return f"{fingerprint(value)} {self.parts(value)}"
        held = [(name, self.text(one)) for name, one in inside(value) or []]
        return f"{_head(value)} {sorted(held) if isinstance(value, set | frozenset) else held}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"


def _head(value: Any) -> str:
    if isinstance(value, types.FunctionType):
        return f"{_name(value)} {_of_code(value.__code__)}"
    return _name(value) if hasattr(value, "__qualname__") else _class(type(value))


def _class(cls: type) -> str:
    """Its name; of one that no package versions, the code of its methods too."""
    own = [base for base in cls.__mro__ if not from_library(base.__module__)]
    code = [f"{k} {_of_code(v.__code__)}" for base in own for k, v in vars(base).items() if isinstance(v, types.FunctionType)]
    return f"{_name(cls)} {_digest(' '.join(code))}" if code else _name(cls)


def _of_code(code: types.CodeType) -> str:
    told = [(one.co_code, one.co_names, [c for c in one.co_consts if isinstance(c, PLAIN)]) for one in codes(code)]
    return _digest(repr(told))


def _leaf(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {digest(value)}"
    if isinstance(value, np.ndarray):
        plain = repr(value.tolist()).encode() if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
        return f"array {value.dtype} {value.shape} {hashlib.sha256(plain).hexdigest()}"
    if isinstance(value, type):
        return _class(value)
    if isinstance(value, torch.Generator):  # its state moves as it is used
        return f"generator {value.device.type} {value.initial_seed()}"
    if isinstance(value, torch.device):  # its kind: processes at one work sit on several
        return repr(torch.device(value.type))
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    return type(value).__qualname__ if hasattr(value, "acquire") or hasattr(value, "handlers") else repr(value)
