"""Samplers: from a noisy image down to a clean one, in sigma units, stateless and differentiable."""

import math
from abc import abstractmethod
from typing import final

from torch import Tensor

from ..component import Component
from .grid import Even, Grid, check_level, checked_grid

Before = tuple[Tensor, float] | None


class Sampler(Component, kind="samplers"):
    """Where a chain stops on its way down, and how it takes one step. Holds no state; noise is handed in."""

    @abstractmethod
    def levels(self, sigma: float, steps: int) -> list[float]:
        """The falling levels from `sigma` to 0; one network call for each but the last."""

    @abstractmethod
    def spread(self, now: float, then: float) -> float:
        """The standard deviation of the fresh noise in the step from level `now` to `then`; 0 needs none, as `then` = 0."""

    @abstractmethod
    def mean(self, noisy: Tensor, clean: Tensor, now: float, then: float, before: Before) -> Tensor:
        """Where the step leads without fresh noise, for `now` > `then` > 0; the arguments are those of `step`."""

    @final
    def step(
        self,
        noisy: Tensor,
        clean: Tensor,
        now: float,
        then: float,
        noise: Tensor | None = None,
        before: Before = None,
    ) -> Tensor:
        """From `noisy` at level `now` with estimate `clean` to level `then`; at `then` = 0 the estimate itself.

        `noise`: standard normal, for steps whose `spread` is not 0. `before`: the estimate of the step before and its
        level, for samplers of more than one step; None in the first. ValueError unless `now` is above `then`, both finite and
        >= 0, or both are 0: a chain from level 0 is its estimates.
        """
        if not (0 <= then < now < math.inf or now == then == 0):
            raise ValueError(f"now, then: expected a finite level and a lower one >= 0, got {now} and {then}")
        if then == 0:
            return clean
        fresh = self.spread(now, then)
        moved = self.mean(noisy, clean, now, then, before)
        if not fresh > 0:
            return moved
        if noise is None:
            raise ValueError(f"noise: expected fresh noise for the step from {now:.4g} to {then:.4g}, got None")
        return moved + fresh * noise


def _levels(grid: Grid | None, sigma: float, steps: int) -> list[float]:
    return (Even() if grid is None else grid).levels(sigma, steps)


class DDIM(Sampler, name="ddim"):
    """Denoising diffusion implicit models (Song, Meng and Ermon, 2021), in the variable x + sigma noise.

    y = clean + sqrt(then^2 - r^2) (noisy - clean) / now + r noise. `eta` 0 adds no noise on the way (r = 0), 1 is ancestral
    DDPM with the small variance. `grid`: where the chain stops; None is evenly in sigma.
    """

    def __init__(self, eta: float = 0.0, grid: Grid | None = None) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta: expected a value in [0, 1], got {eta}")
        self.eta, self.grid = float(eta), checked_grid(grid)

    def levels(self, sigma: float, steps: int) -> list[float]:
        """Those of the grid."""
        return _levels(self.grid, sigma, steps)

    def spread(self, now: float, then: float) -> float:
        """eta then sqrt(now^2 - then^2) / now."""
        return 0.0 if then == 0 else self.eta * then * math.sqrt(max(0.0, now**2 - then**2)) / now

    def mean(self, noisy: Tensor, clean: Tensor, now: float, then: float, before: Before) -> Tensor:
        """The estimate and as much of the old noise as the fresh noise leaves room for."""
        kept = math.sqrt(max(0.0, then**2 - self.spread(now, then) ** 2)) / now
        return clean + kept * (noisy - clean)


class DDPM(Sampler, name="ddpm"):
    """Ancestral sampling (Ho, Jain and Abbeel, 2020) on the grid's levels, small variance.

    DiffPure's DDPM form is this on `TimestepGrid()` with as many steps as timesteps.
    """

    def __init__(self, grid: Grid | None = None) -> None:
        self.grid = checked_grid(grid)

    def levels(self, sigma: float, steps: int) -> list[float]:
        """Those of the grid, which is even in sigma unless told."""
        return _levels(self.grid, sigma, steps)

    def spread(self, now: float, then: float) -> float:
        """then sqrt(now^2 - then^2) / now."""
        return DDIM(eta=1.0).spread(now, then)

    def mean(self, noisy: Tensor, clean: Tensor, now: float, then: float, before: Before) -> Tensor:
        """That of DDIM with eta 1: then^2 / now^2 of the old noise."""
        return DDIM(eta=1.0).mean(noisy, clean, now, then, before)


class OneStep(Sampler, name="one_step"):
    """The estimate itself after one network call, whatever `steps` says (Carlini et al., 2023)."""

    def levels(self, sigma: float, steps: int) -> list[float]:
        """From `sigma` to 0 at once."""
        check_level(sigma)
        return [sigma, 0.0]

    def spread(self, now: float, then: float) -> float:
        """No noise."""
        return 0.0

    def mean(self, noisy: Tensor, clean: Tensor, now: float, then: float, before: Before) -> Tensor:
        """The estimate."""
        return clean
