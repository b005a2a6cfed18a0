"""Several runs of one random stage: the same stage under seeds that no other run has, which follow it wherever it goes."""

import hashlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .component import Component
from .diffusion import Guidance
from .diffusion.guidance import Reference
from .stage import Stage

P = TypeVar("P", bound=Component)
_EVERY = frozenset(vars(nn.Module()))  # what every module has: tensors, modules, hooks, the mode
_MISSING = object()
_SEEDED = (Stage, Guidance, Reference)
_SEEDABLE = (*_SEEDED, nn.ModuleList)


def spawn(seed: int, run: str) -> int:
    """A seed for `run` made from `seed`: another for each text, the same on every machine."""
    return int(hashlib.sha256(f"{seed}/{run}".encode()).hexdigest()[:15], 16)


def rebuilt(part: P, change: Callable[[Any], Any], among: type | tuple[type, ...] = Stage, **settings: Any) -> P:
    """The part with `settings`, and `change` made to each part of kind `among` in its others; itself where none changes."""
    for name, value in part.settings().items():
        inner = value if isinstance(value, list) else [value]
        made = [change(one) if isinstance(one, among) else one for one in inner]
        if any(new is not old for new, old in zip(made, inner, strict=True)):
            settings[name] = made if isinstance(value, list) else made[0]
    return part.replace(**settings) if settings else part


def reseeded(part: P, run: str) -> P:
    """The part with every whole-number `seed` in it spawned for `run`; networks are shared.

    Also the seeds of stages, guidances and references that it wraps. One without such a seed is handed back itself: with
    `seed=None` it draws afresh anyway.
    """
    own = part.settings().get("seed")
    changes = {"seed": spawn(own, run)} if isinstance(own, int) else {}
    return rebuilt(part, lambda one: reseeded(one, run), _SEEDED, **changes)


def repeated(stage: Stage, what: str, count: int) -> list[Stage]:
    """`count` runs of a stage, each with other seeds than the stage; `what` keeps them apart from those of other parts."""
    return [reseeded(stage, f"{what} {k}") for k in range(count)]


class Runs:
    """Runs of one stage for a part that holds it: `of(stage)` hands them out as the stage now is.

    `make` says which runs: it is asked once, and again where the kind of the stage, a number or list of such in it, or those of
    a stage, guidance or reference in it changed. Weights, buffers, modules, mode and all other attributes are those of the
    stage at the time of the call, so that runs need no place among the modules of the part that holds them, and stay right
    when the stage is moved, cast, loaded, copied, replicated or exchanged. Handing out a run costs 10 to 30 microseconds. While
    compiling all but weights, modules, the mode and what is saved of buffers is as it was when runs were made.
    """

    def __init__(self, stage: nn.Module, make: Callable[[Any], Sequence[nn.Module]]) -> None:
        self.make = make
        self._renew(stage)

    def _renew(self, stage: nn.Module) -> None:
        self._seen = _Seen(stage)
        self._told = [None if run is stage else _Run(run, stage) for run in self.make(stage)]
        self._bound = self._all(stage)  # they share the places that tensors and modules are kept in, and so follow them

    def _all(self, stage: nn.Module) -> list[nn.Module]:
        return [stage if told is None else told.bound(stage) for told in self._told]

    def __len__(self) -> int:
        return len(self._told)

    def of(self, stage: Any) -> list[Any]:
        """The runs of `stage`."""
        if torch.compiler.is_compiling():
            for told, run in zip(self._told, self._bound, strict=True):
                if told is not None:
                    told.take_over_mode(run, stage)
            return self._bound
        if not self._seen.fits(stage):
            self._renew(stage)
        return self._all(stage)


class _Seen:
    """What runs are made from: the kinds and numbers of a stage and of what can hold a seed in it."""

    def __init__(self, module: nn.Module) -> None:
        self.kind = type(module)
        self.plain = {name: deepcopy(value) for name, value in vars(module).items() if name not in _EVERY and _is_plain(value)}
        self.parts = {name: _Seen(one) for name, one in _seedable(module).items()}

    def fits(self, module: nn.Module) -> bool:
        """Whether all of it is still the same."""
        if type(module) is not self.kind:
            return False
        now, parts = vars(module), _seedable(module)
        if parts.keys() != self.parts.keys() or not all(
            _same(value, now.get(name, _MISSING)) for name, value in self.plain.items()
        ):
            return False
        return all(part.fits(parts[name]) for name, part in self.parts.items())


class _Run:
    """What a run has of its own, unlike the stage: attributes, buffers made from settings, and parts like that."""

    def __init__(self, run: nn.Module, stage: nn.Module) -> None:
        now = vars(stage)
        mine = {name: value for name, value in vars(run).items() if name not in _EVERY}
        self.own = {name: value for name, value in mine.items() if not _same(value, now.get(name, _MISSING))}
        kept = {name: run._buffers[name] for name in run._non_persistent_buffers_set}
        self.buffers = {name: value for name, value in kept.items() if value is not None}
        pairs = {name: (one, stage._modules.get(name)) for name, one in run._modules.items() if one is not None}
        self.parts = {name: _Run(one, old) for name, (one, old) in pairs.items() if old is not None and one is not old}

    def take_over_mode(self, run: nn.Module, stage: nn.Module) -> None:
        """The run, and each of its own parts, in the mode that the stage is in."""
        if run.training != stage.training:
            run.training = stage.training
        for name, part in self.parts.items():
            now = getattr(stage, name, None)
            if isinstance(now, nn.Module):
                part.take_over_mode(getattr(run, name), now)

    def bound(self, stage: nn.Module) -> nn.Module:
        """The run with all else as it is in the stage."""
        run: nn.Module = object.__new__(type(stage))
        inside = vars(run)
        inside.update(vars(stage))
        inside.update(self.own)
        if self.buffers:
            inside["_buffers"] = {**stage._buffers, **{name: _like(one, stage, name) for name, one in self.buffers.items()}}
        if self.parts:
            made = {name: part.bound(stage._modules[name]) for name, part in self.parts.items()}  # type: ignore[arg-type]
            inside["_modules"] = {**stage._modules, **made}
        return run


def _seedable(module: nn.Module) -> dict[str, nn.Module]:
    return {name: one for name, one in module._modules.items() if isinstance(one, _SEEDABLE)}


def _is_plain(value: Any) -> bool:
    """Whether it is a number, a text, or a list of such."""
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, bool | int | float | str)


def _same(value: Any, other: Any) -> bool:
    """The same object, or an equal number, text or list of such."""
    return value is other or (_is_plain(value) and type(value) is type(other) and bool(value == other))


def _like(buffer: Tensor, stage: nn.Module, name: str) -> Tensor:
    """A run's buffer where, and in the dtype in which, the stage has its own."""
    now = stage._buffers.get(name)
    return buffer if now is None else buffer.to(now)
