"""What a value acts through: containers, attributes, closures, globals and parts, found without running anything."""

import datetime
import dis
import enum
import functools
import logging
import re
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .component import Component

PLAIN = bool | int | float | str | None
_SAID = (  # what a repr tells in full
    *(bytes, bytearray, complex, range, slice, enum.Enum, PurePath, re.Pattern, datetime.date, datetime.timedelta, np.generic),
    *(np.dtype, torch.dtype, torch.device, torch.layout, torch.memory_format, type(Ellipsis), type(NotImplemented)),
)
_IDLE = (logging.Logger, type(threading.Lock()), type(threading.RLock()), types.ModuleType, torch.Generator)
_BUILTIN = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    np.ufunc,
)
_OURS = set(vars(nn.Module())) | {"training"}  # what nn.Module keeps for itself: state has a print of its own, hooks watch
MOST = 200_000  # values; our choice

Children = list[tuple[str, Any]]


def is_leaf(value: Any) -> bool:
    """Whether nothing is looked for inside it."""
    return isinstance(value, (bool, int, float, str, type(None), Tensor, np.ndarray, type, np.ufunc, *_SAID, *_IDLE))


def tells_itself(value: Any) -> bool:
    """Whether it has a method `told_apart_by() -> str`, by which it says what tells it from others: nothing else counts."""
    return not isinstance(value, type) and callable(getattr(type(value), "told_apart_by", None))


def inside(value: Any) -> Children | None:
    """What it acts through, by name; None where that cannot be seen (a session, a connection, a compiled extension)."""
    if is_leaf(value) or tells_itself(value):
        return []
    if isinstance(value, nn.Module):
        return [*attributes(value), *value.named_children()]
    if isinstance(value, Component):
        return [*value.settings().items(), *(("hidden", one) for one in value.hidden())]
    if isinstance(value, types.FunctionType):
        return _of_function(value)
    if isinstance(value, functools.partial):
        return [("func", value.func), *(("", one) for one in value.args), *value.keywords.items()]
    if isinstance(value, types.MethodType | weakref.ref):
        return [("", value())] if isinstance(value, weakref.ref) else [("func", value.__func__), ("of", value.__self__)]
    if isinstance(value, _BUILTIN):
        owner = getattr(value, "__self__", None)
        return [] if isinstance(owner, types.ModuleType | None) else [("of", owner)]
    return _contained(value) if isinstance(value, dict | list | tuple | set | frozenset | deque) else _of_object(value)


def attributes(module: nn.Module) -> Children:
    """What a module holds beyond its state: attributes, non-persistent buffers; of a compiled one its code."""
    if isinstance(module, torch.jit.ScriptModule):
        return [("code", _script(module))]
    own = {k: v for k, v in vars(module).items() if k not in _OURS}
    if isinstance(module, torch.fx.GraphModule):
        own = {"code": module.code}
    if "_orig_mod" in module._modules:  # torch.compile's wrapper
        own = {}
    unsaved = {k: module._buffers.get(k) for k in sorted(module._non_persistent_buffers_set)}
    hidden = [("hidden", one) for one in module.hidden()] if isinstance(module, Component) else []
    return [*sorted(own.items()), *unsaved.items(), *hidden]


def reached(value: Any) -> Iterator[Any]:
    """The value and all that it acts through, each once; `MOST` at most."""
    seen: dict[int, Any] = {}
    todo = [value]
    while todo and len(seen) < MOST:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one  # held, so that no id is used again
        yield one
        todo += [child for _, child in reversed(inside(one) or [])]


def modules_in(value: Any) -> list[nn.Module]:
    """Every module that it acts through, behind functions and in lists too."""
    return [one for one in reached(value) if isinstance(one, nn.Module)]


def unseen(value: Any) -> list[str]:
    """The types of what it holds and nobody can look into; "too many values" where there are more than `MOST`."""
    found, count = [], 0
    for one in reached(value):
        count += 1
        if inside(one) is None:
            found.append(f"{type(one).__module__}.{type(one).__qualname__}")
    return found if count < MOST else [*found, "too many values"]


def from_library(name: str) -> bool:
    """Whether a module comes with Python, an installed package or this one: its globals and code are told by versions."""
    top = str(name).split(".")[0]
    if top in sys.stdlib_module_names or top == str(__package__).split(".")[0]:
        return True
    file = str(getattr(sys.modules.get(top), "__file__", None) or "")
    return "site-packages" in file or "dist-packages" in file


def codes(code: types.CodeType) -> list[types.CodeType]:
    """A function's code and that of the functions in it."""
    return [code, *(deeper for one in code.co_consts if isinstance(one, types.CodeType) for deeper in codes(one))]


def _of_function(function: types.FunctionType) -> Children:
    original = getattr(function, "_torchdynamo_orig_callable", None)
    if original is not None:
        return [("compiled", original)]
    found: Children = [(name, one) for name, one in vars(function).items() if name != "__wrapped__"]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            found.append((name, cell.cell_contents))
        except ValueError:  # not yet filled
            continue
    found += [("default", one) for one in function.__defaults__ or ()]
    return [*found, *(function.__kwdefaults__ or {}).items(), *_globals_of(function)]


def _globals_of(function: types.FunctionType) -> Children:
    if from_library(function.__module__):
        return []
    loads = {"LOAD_GLOBAL", "LOAD_NAME"}
    lines = (line for code in codes(function.__code__) for line in dis.get_instructions(code))
    names = {line.argval for line in lines if line.opname in loads}
    return [(name, function.__globals__[name]) for name in sorted(names) if name in function.__globals__]


def _contained(value: Any) -> Children:
    held = [one for pair in value.items() for one in pair] if isinstance(value, dict) else list(value)
    return [*(("", one) for one in held), *sorted(getattr(value, "__dict__", {}).items())]


def _of_object(value: Any) -> Children | None:
    slots = [name for cls in type(value).__mro__ for name in _names(vars(cls).get("__slots__", ()))]
    if not hasattr(value, "__dict__") and not slots and type(value) is not object:
        return None
    held = {name: getattr(value, name) for name in slots if hasattr(value, name) and name not in ("__dict__", "__weakref__")}
    return sorted((held | dict(getattr(value, "__dict__", {}))).items())


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _script(module: torch.jit.ScriptModule) -> str:
    try:
        return f"{module.original_name} {module.code}"
    except (AttributeError, RuntimeError):  # a part without a forward of its own
        return str(getattr(module, "original_name", ""))
