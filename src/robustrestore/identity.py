"""What something is, as text that differs where it would act otherwise: functions, and modules beyond their weights."""

import functools
import hashlib
import re
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

from torch import nn

from .component import Component
from .weights import fingerprint

_PLAIN = bool | int | float | str | None


def of_callable(thing: Callable[..., Any]) -> str:
    """Its name and, for a function, a digest of its code, defaults and what it closes over."""
    if isinstance(thing, functools.partial):
        given = [_of_value(v) for v in (*thing.args, *thing.keywords.values())]
        return f"partial {of_callable(thing.func)} {given} {list(thing.keywords)}"
    owner = getattr(thing, "__self__", None)
    code = getattr(thing, "__code__", None)
    more = _digest(_of_code(code) + "".join(_surroundings(thing))) if code is not None else ""
    if code is None and not isinstance(thing, type) and not hasattr(thing, "__qualname__"):  # an object that is called
        return f"{of_callable(type(thing).__call__)} {_of_owner(thing)}"
    text = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')} {more}".strip()
    return text if owner is None or isinstance(owner, type | ModuleType) else f"{text} of {_of_owner(owner)}"


def of_attributes(module: nn.Module) -> str:
    """A digest of the plain attributes (numbers, texts, switches) of a module and all its parts."""
    found = []
    for path, part in module.named_modules():
        plain = {k: v for k, v in vars(part).items() if isinstance(v, _PLAIN) and not k.startswith("_") and k != "training"}
        found.append((path, type(part).__qualname__, sorted(plain.items())))
    return _digest(repr(found))


def of_settings(value: Any) -> str:
    """What the repr of a part does not tell: weights, modules and functions among its settings, to the bottom.

    Empty where there are none.
    """
    if isinstance(value, list | tuple):
        return "".join(of_settings(one) for one in value)
    own = _of_value(value) if isinstance(value, nn.Module) else ""
    if isinstance(value, Component):
        return own + of_settings([*value.settings().values(), *value.hidden()])
    return own or (of_callable(value) if callable(value) else "")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _of_code(code: CodeType) -> str:
    constants = [c for c in code.co_consts if isinstance(c, _PLAIN)]
    inner = "".join(_of_code(c) for c in code.co_consts if isinstance(c, CodeType))
    return repr((code.co_code, code.co_names, constants)) + inner


def _surroundings(function: Any) -> list[str]:
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    cells = [value for value in cells if value is not function]  # one that calls itself
    values = [
        *cells,
        *(getattr(function, "__defaults__", None) or ()),
        *(getattr(function, "__kwdefaults__", None) or {}).values(),
    ]
    return [_of_value(value) for value in values]


def _of_owner(owner: Any) -> str:
    return _of_value(owner if isinstance(owner, nn.Module) else getattr(owner, "__dict__", owner))


def _of_value(value: Any) -> str:
    if isinstance(value, nn.Module):
        return f"{value!r} {fingerprint(value)} {of_attributes(value)}"
    if hasattr(value, "__code__") or isinstance(value, functools.partial):
        return of_callable(value)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))  # another process puts it elsewhere
