"""Denoised smoothing: which timestep of a diffusion model stands for a smoothing noise (Carlini et al., 2023)."""

import math
from collections.abc import Sequence


def first_timestep(sigma: float, alphas: Sequence[float]) -> int:
    """The first 0-based timestep whose noise is at least `sigma` in [0, 1] units, that is 2 sigma on [-1, 1] images.

    `alphas`: products of 1 - beta. A network that knows whole timesteps alone is to be smoothed with that timestep's own level,
    `timestep_sigma`. Radii of `sigma` stay sound under it, being smaller.
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma: expected a finite number above 0 in units of [0, 1] images, got {sigma}")
    for step, alpha in enumerate(alphas):
        if not 0 < alpha <= 1:
            raise ValueError(f"alphas: expected products of 1 - beta in (0, 1], got {alpha} at timestep {step}")
        if math.sqrt((1 - alpha) / alpha) >= 2 * sigma:
            return step
    raise ValueError(f"sigma: expected at most the noise of the last of {len(alphas)} timesteps, got {sigma}")


def timestep_sigma(sigma: float, alphas: Sequence[float]) -> float:
    """The noise of `first_timestep`, in [0, 1] units: no less than `sigma`."""
    alpha = alphas[first_timestep(sigma, alphas)]
    return math.sqrt((1 - alpha) / alpha) / 2
