"""Noise schedules by name: the products of (1 - beta), which tell the level of each timestep."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from ..arguments import whole


def linear_alphas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> list[float]:
    """Products of (1 - beta) for linear betas (Ho, Jain and Abbeel, 2020); entry k belongs to k + 1 steps of noise.

    OpenAI's models of other than 1000 steps are stretched: `linear_alphas(steps, 0.1 / steps, 20 / steps)`. Raises ValueError
    for betas outside (0, 1).
    """
    return _products(torch.linspace(*_ends(first, last), whole(steps, "steps"), dtype=torch.float64))


def scaled_linear_alphas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> list[float]:
    """As `linear_alphas`, with linear roots of beta (Rombach et al., 2022); Stable Diffusion's go from 0.00085 to 0.012."""
    low, high = _ends(first, last)
    return _products(torch.linspace(math.sqrt(low), math.sqrt(high), whole(steps, "steps"), dtype=torch.float64).square())


def cosine_alphas(steps: int = 1000) -> list[float]:
    """Products of (1 - beta) of the cosine schedule (Nichol and Dhariwal, 2021), no beta above 0.999."""
    times = torch.arange(whole(steps, "steps") + 1, dtype=torch.float64) / steps
    left = ((times + 0.008) / 1.008 * math.pi / 2).cos().square()
    return _products((1 - left[1:] / left[:-1]).clamp(max=0.999))


SCHEDULES: dict[str, Callable[[int], list[float]]] = {
    "linear": linear_alphas,
    "scaled_linear": scaled_linear_alphas,
    "cosine": cosine_alphas,
    "squaredcos_cap_v2": cosine_alphas,
}
"""Those that have a name, as in diffusers and in OpenAI's code; betas of the first two from 1e-4 to 0.02 for any `steps`."""


def named_alphas(name: str, steps: int = 1000) -> list[float]:
    """The products of (1 - beta) of one of `SCHEDULES`; ValueError with the known names for another one."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {name!r}: hand over its alphas as numbers")
    return SCHEDULES[name](steps)


def checked_alphas(alphas: Sequence[float], least: int = 1) -> list[float]:
    """The products as floats; ValueError unless there are `least` of them, in (0, 1), each below the one before."""
    if isinstance(alphas, str):
        raise TypeError(f"alphas: expected numbers, got {alphas!r}: diffusion.named_alphas({alphas!r})")
    found = [float(a) for a in alphas]
    wrong = [k for k, (above, a) in enumerate(pairwise([1.0, *found])) if not 0 < a < above]
    if len(found) >= least and not wrong:
        return found
    got = f"{found[wrong[0]]:.6g} at entry {wrong[0]}" if wrong else f"{len(found)} of them"
    if wrong and wrong[0] > 0:
        got += f" after {found[wrong[0] - 1]:.6g}"
    many = "" if least == 1 else f"{least} or more "
    raise ValueError(f"alphas: expected {many}values in (0, 1) that fall with the timestep (products of 1 - beta), got {got}")


def _ends(first: float, last: float) -> tuple[float, float]:
    if not (0 < first < 1 and 0 < last < 1):
        raise ValueError(f"first, last: expected betas in (0, 1), got {first} and {last}")
    return first, last


def _products(betas: torch.Tensor) -> list[float]:
    found = [float(a) for a in (1 - betas).cumprod(0)]
    if found[-1] < torch.finfo(torch.float64).tiny:
        raise ValueError(
            f"steps: expected as many as leave something of an image, got {len(found)}, with products of 1 - beta down to "
            f"{found[-1]:.3g}: take smaller betas, as in linear_alphas(steps, 0.1 / steps, 20 / steps)"
        )
    return found
