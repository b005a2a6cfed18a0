"""Plan: how long a training runs and how weights move. A value, so that it prints, saves and is compared on resuming."""

import math
from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import nn

from ..component import Component

PRECISIONS = ("no", "bf16", "fp16")


class Optimiser(Component, kind="optimisers"):
    """An optimiser and its learning rate: over `warmup`, a share of the steps, up to `lr`; then a cosine to `floor` of it."""

    lr: float
    warmup: float
    floor: float

    @abstractmethod
    def make(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimiser of these weights."""

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0 .. steps - 1."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return self.lr * (step + 1) / rising
        share = (step - rising) / max(1, steps - rising)
        return self.lr * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share)))


def _check_rate(lr: float, warmup: float, floor: float) -> None:
    if not 0 < lr < math.inf:
        raise ValueError(f"lr: expected a learning rate > 0, got {lr}")
    for name, value in (("warmup", warmup), ("floor", floor)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: expected a share in [0, 1], got {value}")


class AdamW(Optimiser, name="adamw"):
    """AdamW (Loshchilov and Hutter, 2019). The defaults are our choice."""

    def __init__(
        self, lr: float = 1e-3, weight_decay: float = 1e-4, beta2: float = 0.99, warmup: float = 0.025, floor: float = 0.02
    ) -> None:
        _check_rate(lr, warmup, floor)
        self.lr, self.weight_decay, self.beta2, self.warmup, self.floor = lr, weight_decay, beta2, warmup, floor

    def make(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """With betas (0.9, beta2)."""
        return torch.optim.AdamW(weights, self.lr, betas=(0.9, self.beta2), weight_decay=self.weight_decay)


class SGD(Optimiser, name="sgd"):
    """Stochastic gradient descent with momentum; lr, momentum and weight decay are those of TRADES' code (2019)."""

    def __init__(
        self, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 2e-4, warmup: float = 0.0, floor: float = 0.0
    ) -> None:
        _check_rate(lr, warmup, floor)
        self.lr, self.momentum, self.weight_decay, self.warmup, self.floor = lr, momentum, weight_decay, warmup, floor

    def make(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Plain momentum."""
        return torch.optim.SGD(weights, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


class Plan(Component, kind="plans", name="plan"):
    """What `fit` does besides the recipe. The defaults are our choice.

    `steps` updates of the weights, each from `batch` images over all processes (epochs: images of the data set / batch steps
    each), taken `accumulate` portions after another where memory is short. `average`: the decay of a running average of the
    weights, which is what is validated and handed back; None hands back the weights themselves. `precision`: "no", "bf16" or
    "fp16" autocast. `every` so many steps it validates and writes a checkpoint; None is a twentieth of the steps. Gradients are
    clipped to norm `clip`; None lets them be. `seed` drives the order of the data and all randomness in it and in the recipe.
    """

    def __init__(
        self,
        steps: int = 1000,
        batch: int = 8,
        optimiser: Optimiser | None = None,
        average: float | None = 0.998,
        clip: float | None = 1.0,
        accumulate: int = 1,
        precision: str = "no",
        every: int | None = None,
        seed: int = 0,
    ) -> None:
        for name, value in (
            ("steps", steps),
            ("batch", batch),
            ("accumulate", accumulate),
            ("every", 1 if every is None else every),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number >= 1, got {value!r}")
        if batch % accumulate:
            raise ValueError(f"accumulate: expected a divisor of batch {batch}, got {accumulate}")
        if average is not None and not 0 <= average < 1:
            raise ValueError(f"average: expected a decay in [0, 1) or None, got {average}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip: expected a norm > 0 or None, got {clip}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {list(PRECISIONS)}, got {precision!r}")
        if not isinstance(optimiser, Optimiser | None):
            raise TypeError(f"optimiser: expected one such as rr.AdamW(lr=1e-3), got {type(optimiser).__name__}")
        self.steps, self.batch, self.average, self.clip = steps, batch, average, clip
        self.optimiser: Optimiser = AdamW() if optimiser is None else optimiser
        self.accumulate, self.precision, self.every, self.seed = accumulate, precision, every, seed

    @property
    def interval(self) -> int:
        """How many steps lie between two checkpoints."""
        return max(1, self.steps // 20) if self.every is None else self.every
