"""What arguments of constructors have to be: whole numbers, finite numbers, levels, seeds.

Each is handed back in Python's own type; finite numbers may come as tensors or arrays without dimensions. TypeError for what
is no number at all, ValueError for one that does not fit, and for True and False.
"""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

LARGEST = 2**63  # seeds are below it: what 64 bits hold with a sign


def whole(value: Any, what: str, least: int = 1, most: int | None = None) -> int:
    """A whole number from `least` to `most`, numpy's too; 2.0 is none."""
    span = f">= {least}" if most is None else f"from {least} to {most}"
    expected = f"{what}: expected a whole number {span}, got {value!r}"
    if not isinstance(value, Real):
        raise TypeError(expected)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(expected)
    found = int(value)
    if found < least or (most is not None and found > most):
        raise ValueError(expected)
    return found


def number(
    value: Any, what: str, expected: str = "a finite number >= 0", fits: Callable[[float], bool] = lambda value: value >= 0
) -> float:
    """A finite number that `fits`, as `expected` says in words."""
    value = single(value)
    if not isinstance(value, Real):
        raise TypeError(f"{what}: expected {expected}, got {type(value).__name__} {value!r}")
    if isinstance(value, bool) or not math.isfinite(value) or not fits(float(value)):
        raise ValueError(f"{what}: expected {expected}, got {value!r}")
    return float(value)


def single(value: Any) -> Any:
    """What a tensor, array or numpy number without dimensions holds, as Python's own; all else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def level(value: Any, what: str = "sigma") -> float:
    """A standard deviation of noise in units of [0, 1] images, 0 included."""
    return number(value, what, "a finite level >= 0 in units of [0, 1] images")


def seed(value: Any, what: str = "seed") -> int | None:
    """A whole number from 0 to 2^63 - 1, or None for fresh draws."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < LARGEST:
        kind = ValueError if isinstance(value, Real) else TypeError
        raise kind(f"{what}: expected a whole number from 0 to 2^63 - 1, or None to draw afresh, got {value!r}")
    return int(value)
