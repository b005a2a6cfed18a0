"""VPSDE, VPODE: the reverse of the variance-preserving process as DiffPure integrates it (Nie et al., 2022)."""

import math
from functools import cache

from torch import Tensor

from .grid import Grid, TimestepGrid, checked_grid
from .sampling import Before, Sampler


class VPSDE(Sampler, name="vp_sde"):
    """DiffPure's reverse VP-SDE (Nie et al., 2022) by Euler-Maruyama: its own process with as many steps as timesteps.

    In z = sqrt(a) (2 y - 1), a = 1 / (1 + 4 sigma^2), a step is z <- (1 + beta / 2) z - beta e / sqrt(1 - a) + sqrt(beta) n
    with e the noise that the estimate implies and beta = 1 - a_now / a_then, the schedule's own for unit steps. Our choice:
    the last step returns the estimate, where DiffPure leaves noise of sqrt(beta_1) / 2 = 0.005. Few steps are coarse: they
    leave more noise than the next level says. `grid`: None is `TimestepGrid()`.
    """

    def __init__(self, grid: Grid | None = None) -> None:
        self.grid = checked_grid(grid)

    def levels(self, sigma: float, steps: int) -> list[float]:
        """Those of the grid."""
        return (_usual() if self.grid is None else self.grid).levels(sigma, steps)

    def spread(self, now: float, then: float) -> float:
        """sqrt(beta / a_then) / 2; none in the last step."""
        return math.sqrt(_beta(now, then) * (1 + 4 * then**2)) / 2 if then > 0 else 0.0

    def mean(self, noisy: Tensor, clean: Tensor, now: float, then: float, before: Before) -> Tensor:
        """The drift, with the whole score."""
        return _drifted(noisy, clean, now, then, 1.0)


class VPODE(Sampler, name="vp_ode"):
    """The probability flow of the same process (Song et al., 2021): Euler steps with half the score and no noise.

    Our choice: the last step returns the estimate. `grid`: None is `TimestepGrid()`. With few steps DDIM, which solves the
    linear part of the same equation exactly, is the better integrator.
    """

    def __init__(self, grid: Grid | None = None) -> None:
        self.grid = checked_grid(grid)

    def levels(self, sigma: float, steps: int) -> list[float]:
        """Those of the grid."""
        return VPSDE(self.grid).levels(sigma, steps)

    def spread(self, now: float, then: float) -> float:
        """No noise."""
        return 0.0

    def mean(self, noisy: Tensor, clean: Tensor, now: float, then: float, before: Before) -> Tensor:
        """The drift, with half the score."""
        return _drifted(noisy, clean, now, then, 0.5)


@cache
def _usual() -> Grid:
    return TimestepGrid()


def _beta(now: float, then: float) -> float:
    """1 - a_now / a_then."""
    return 4 * (now**2 - then**2) / (1 + 4 * now**2)


def _drifted(noisy: Tensor, clean: Tensor, now: float, then: float, share: float) -> Tensor:
    """An Euler step without noise, `share` of the score: in sigma units beta / (1 - a_now) is 1 - (then / now)^2."""
    beta = _beta(now, then)
    kept, pull = math.sqrt(1 - beta), share * (1 - (then / now) ** 2)
    own, towards = kept * (1 + beta / 2 - pull), kept * pull  # 0.5 + kept ((1 + beta / 2) (noisy - 0.5) - pull (noisy - clean))
    return own * noisy + towards * clean + 0.5 * (1 - own - towards)
