"""Several runs of one random stage: the same stage under seeds that no other run has."""

import hashlib
from collections.abc import Callable
from typing import Any

from .stage import Stage


def spawn(seed: int, run: str) -> int:
    """A seed for `run` made from `seed`: another for each text, the same on every machine."""
    return int(hashlib.sha256(f"{seed}/{run}".encode()).hexdigest()[:15], 16)


def rebuilt(stage: Stage, change: Callable[[Stage], Stage], **settings: Any) -> Stage:
    """The stage with `settings`, and `change` made to each stage among its others; itself where all stay the same."""
    for name, value in stage.settings().items():
        inner = value if isinstance(value, list) else [value]
        made = [change(one) if isinstance(one, Stage) else one for one in inner]
        if any(new is not old for new, old in zip(made, inner, strict=True)):
            settings[name] = made if isinstance(value, list) else made[0]
    return stage.replace(**settings) if settings else stage


def reseeded(stage: Stage, run: str) -> Stage:
    """The stage with every whole-number `seed` in it, also of stages that it wraps, spawned for `run`; networks are shared.

    One without such a seed is handed back itself: with `seed=None` it draws afresh anyway.
    """
    own = stage.settings().get("seed")
    changes = {"seed": spawn(own, run)} if isinstance(own, int) else {}
    return rebuilt(stage, lambda one: reseeded(one, run), **changes)


def repeated(stage: Stage, what: str, count: int) -> list[Stage]:
    """`count` runs of a stage, each with other seeds than the stage; `what` keeps them apart from those of other parts."""
    return [reseeded(stage, f"{what} {k}") for k in range(count)]
