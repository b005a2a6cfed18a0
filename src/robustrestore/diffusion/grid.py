"""Grids: where a chain stops between a level of noise and none, evenly in sigma or on the timesteps of a schedule."""

import math
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Sequence

from ..arguments import whole
from ..component import Component
from .schedule import checked_alphas, named_alphas


class Grid(Component, kind="grids"):
    """The levels of a chain, in sigma."""

    @abstractmethod
    def levels(self, sigma: float, steps: int) -> list[float]:
        """`steps` + 1 falling levels, the first exactly `sigma`, the last exactly 0."""


class Even(Grid, name="even"):
    """Levels evenly spaced in sigma: what samplers do that are told no grid."""

    def levels(self, sigma: float, steps: int) -> list[float]:
        """Evenly from `sigma` to 0."""
        check_level(sigma)
        _check_steps(steps)
        return [sigma * (1 - k / steps) for k in range(steps)] + [0.0]


class TimestepGrid(Grid, name="timesteps"):
    """Timesteps of a schedule, evenly spaced as in respaced DDPM (Nichol and Dhariwal, 2021), converted to sigma.

    `alphas`: products of 1 - beta, as `DiscreteTime` takes them, or the name of a schedule of `steps` timesteps, one of
    `SCHEDULES`; None is the linear one, and `steps` None is 1000. A timestep counts unit steps of noise: 0 is clean, t belongs
    to the entry t - 1, so DiffPure's t* = 100 is `sigma(100)`. Of a chain of at most t* steps every level below the first is a
    whole timestep: a surrogate of fewer steps stays on the full chain's grid. Between two timesteps, where longer chains stop,
    beta is constant.
    """

    def __init__(self, alphas: Sequence[float] | str | None = None, steps: int | None = None) -> None:
        self.alphas = alphas if isinstance(alphas, str | None) else checked_alphas(alphas)
        self.steps = None if steps is None else whole(steps, "steps")
        if isinstance(self.alphas, list):
            table = self.alphas
        else:
            table = named_alphas("linear" if self.alphas is None else self.alphas, 1000 if steps is None else steps)
        if steps not in (None, len(table)):
            raise ValueError(f"steps: expected as many as there are alphas, {len(table)}, or None, got {steps}")
        self._decay = [-math.log(a) for a in (1.0, *table)]

    def sigma(self, timestep: float) -> float:
        """The level in [0, 1] units after that many unit steps of noise, which may be fractional."""
        last = len(self._decay) - 1
        if not 0 <= timestep <= last:
            raise ValueError(f"timestep: expected a number of unit steps in [0, {last}], got {timestep}")
        below = min(int(timestep), last - 1)
        rise = self._decay[below + 1] - self._decay[below]
        return math.sqrt(math.expm1(self._decay[below] + (timestep - below) * rise)) / 2

    def timestep(self, sigma: float) -> float:
        """How many unit steps of noise make a level; within a thousandth of a whole number (float32) it is that number."""
        decay, last = math.log1p(4 * sigma**2), len(self._decay) - 1
        if not (sigma >= 0 and decay <= self._decay[-1] * (1 + 1e-6)):
            raise ValueError(f"sigma: expected a level in [0, {self.sigma(last):.4g}], where the timesteps end, got {sigma}")
        above = min(max(bisect_left(self._decay, decay), 1), last)
        exact = above - 1 + (decay - self._decay[above - 1]) / (self._decay[above] - self._decay[above - 1])
        return float(round(exact)) if abs(exact - round(exact)) < 1e-3 else exact

    def levels(self, sigma: float, steps: int) -> list[float]:
        """The levels of evenly spaced timesteps, rounded to whole ones (halves up) where there are enough of them."""
        _check_steps(steps)
        top = self.timestep(sigma)
        times = [top * (steps - k) / steps for k in range(1, steps)]
        if steps <= top:
            times = [math.floor(time + 0.5) for time in times]
        return [sigma, *(self.sigma(time) for time in times), 0.0]


def checked_grid(grid: Grid | None) -> Grid | None:
    """The grid as given; TypeError unless it is one, or None."""
    if not isinstance(grid, Grid | None):
        raise TypeError(f"grid: expected a Grid such as diffusion.TimestepGrid(), got {type(grid).__name__}")
    return grid


def check_level(sigma: float) -> None:
    """Raise ValueError unless a chain can begin at that level."""
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma: expected a finite level >= 0, got {sigma}")


def _check_steps(steps: int) -> None:
    whole(steps, "steps")
