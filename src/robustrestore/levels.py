"""Levels to be measured: which stage purifies at each of them, and what cannot be measured."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from numbers import Real

from torch import nn

from .arguments import single
from .diffusion import Denoiser
from .pipeline import DefendedPipeline
from .stage import Stage


def stages_of(purifier: Stage | Callable[[float], Stage], grey: bool) -> Callable[[float], Stage | None]:
    """From a level to the stage that purifies at it; None at 0. `grey`: levels are in units of [0, 1] images."""
    if isinstance(purifier, Stage):
        part, known = purifier, purifier.settings()
        if "sigma" not in known:
            raise TypeError(
                f"purifier: expected a part with the setting sigma, got {part!r}: hand over a function of the level"
            )
        if grey and not any(isinstance(one, Denoiser) for one in part.modules()):
            raise TypeError(
                f"purifier: expected a part whose sigma is a level of noise, got {part!r} without a denoiser in it: hand over "
                "levels in the units of its sigma"
            )
        fresh = {"seed": None} if "seed" in known else {}
        return lambda level: part.replace(sigma=level, **fresh) if level > 0 else None
    if isinstance(purifier, nn.Module) or not callable(purifier):
        hint = ": hand over one of its stages" if isinstance(purifier, DefendedPipeline) else ""
        raise TypeError(f"purifier: expected a Stage or a function from level to Stage, got {type(purifier).__name__}{hint}")
    make = purifier

    def made(level: float) -> Stage | None:
        found = make(level) if level > 0 else None
        if level > 0 and not isinstance(found, Stage):
            raise TypeError(f"purifier: expected a function from level to Stage, got {type(found).__name__} for {level:.4g}")
        return found

    return made


def checked_levels(levels: Sequence[float]) -> list[float]:
    """The levels, rising; each of them once."""
    if isinstance(levels, str) or not isinstance(levels, Iterable):
        raise TypeError(f"levels: expected a list of sigmas, got {levels!r}")
    given = [single(one) for one in levels]
    wrong = [one for one in given if isinstance(one, bool) or not isinstance(one, Real)]
    if wrong:
        raise TypeError(f"levels: expected finite sigmas >= 0, got {wrong[0]!r} among them")
    grid = sorted(float(one) for one in given)
    if not grid or not all(0 <= one < float("inf") for one in grid):
        raise ValueError(f"levels: expected finite sigmas >= 0, at least one, got {given}")
    if twice := sorted({one for one, other in pairwise(grid) if one == other}):
        raise ValueError(f"levels: expected each level once, got {twice} more than once")
    return grid


@contextmanager
def placed(what: str) -> Iterator[None]:
    """Errors of the block say where they arose."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"{what}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
