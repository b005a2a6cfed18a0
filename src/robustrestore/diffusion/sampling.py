"""Samplers: from a noisy image down to a clean one, in sigma units, stateless and differentiable."""

import math
from abc import abstractmethod

from torch import Tensor

from ..component import Component


class Sampler(Component, kind="samplers"):
    """Where a chain stops on its way down, and how it takes one step. Holds no state; noise is handed in."""

    @abstractmethod
    def levels(self, sigma: float, steps: int) -> list[float]:
        """The falling levels from `sigma` to 0; one network call for each but the last."""

    @abstractmethod
    def spread(self, now: float, then: float) -> float:
        """The standard deviation of the fresh noise in the step from level `now` to `then`; 0 needs none."""

    def step(self, noisy: Tensor, clean: Tensor, now: float, then: float, noise: Tensor | None = None) -> Tensor:
        """From `noisy` at level `now` with estimate `clean` to level `then`.

        y = clean + sqrt(then^2 - r^2) (noisy - clean) / now + r noise, with r = `spread(now, then)`: Song, Meng and
        Ermon (2021) in the variable x + sigma noise. At `then` = 0 it is the estimate itself.
        """
        fresh = self.spread(now, then)
        kept = math.sqrt(max(0.0, then**2 - fresh**2)) / now
        moved = clean + kept * (noisy - clean)
        if not fresh > 0:
            return moved
        if noise is None:
            raise ValueError(f"noise: expected fresh noise for the step from {now:.4g} to {then:.4g}, got None")
        return moved + fresh * noise


def _even(sigma: float, steps: int) -> list[float]:
    if steps < 1:
        raise ValueError(f"steps: expected a whole number >= 1, got {steps}")
    return [sigma * (1 - k / steps) for k in range(steps)] + [0.0]


class DDIM(Sampler, name="ddim"):
    """Denoising diffusion implicit models (Song, Meng and Ermon, 2021), levels evenly spaced in sigma.

    `eta` 0 adds no noise on the way, 1 is ancestral DDPM with the small variance.
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta: expected a value in [0, 1], got {eta}")
        self.eta = float(eta)

    def levels(self, sigma: float, steps: int) -> list[float]:
        """Evenly from `sigma` to 0."""
        return _even(sigma, steps)

    def spread(self, now: float, then: float) -> float:
        """eta then sqrt(now^2 - then^2) / now."""
        return self.eta * then * math.sqrt(max(0.0, now**2 - then**2)) / now


class DDPM(Sampler, name="ddpm"):
    """Ancestral sampling (Ho, Jain and Abbeel, 2020) on the chosen levels, small variance."""

    def levels(self, sigma: float, steps: int) -> list[float]:
        """Evenly from `sigma` to 0."""
        return _even(sigma, steps)

    def spread(self, now: float, then: float) -> float:
        """then sqrt(now^2 - then^2) / now."""
        return DDIM(eta=1.0).spread(now, then)


class OneStep(Sampler, name="one_step"):
    """The estimate itself after one network call, whatever `steps` says (Carlini et al., 2023)."""

    def levels(self, sigma: float, steps: int) -> list[float]:
        """From `sigma` to 0 at once."""
        return [sigma, 0.0]

    def spread(self, now: float, then: float) -> float:
        """No noise."""
        return 0.0
