"""Certificate: what was counted for one image, and what follows from it. Frozen; everything but the counts is derived."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from . import bounds
from .bounds import below
from .noise import NORMS, Noise, Norm
from .splitting import gap_as_probability

MAY = "; what is deployed, answering by finitely many draws, may abstain"


@dataclass(frozen=True)
class Certificate:
    """One image of a smoothed classifier.

    `selected`: the class with the most of the `n0` selection draws; `counts`: class to count among the `n` fresh ones.
    `level`: the error probability of the one test that decided (alpha, or its share where several looks may decide); 0 where
    all draws of a finite noise were gone through. `model`: the base model's fingerprint.
    """

    selected: int
    counts: Mapping[int, int]
    n0: int
    n: int
    level: float
    alpha: float
    noise: Noise
    shape: tuple[int, ...]
    model: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def p_low(self) -> float:
        """The lower bound of the selected class's probability; for a finite noise what stands for the gap of the first two."""
        k = self.counts.get(self.selected, 0)
        if self.level == 0:
            return gap_as_probability(
                k, max((c for label, c in self.counts.items() if label != self.selected), default=0), self.n
            )
        return float(bounds.lower(k, self.n, self.level))

    @property
    def dims(self) -> int:
        """Values an image."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def abstained(self) -> bool:
        """Whether nothing is promised: the bound, less what the sampling may miss, is no more than 1/2."""
        return not self.p_low - self.noise.slack(self.dims) > 0.5

    @property
    def prediction(self) -> int | None:
        """The certified class; None where abstained."""
        return None if self.abstained else self.selected

    @cached_property
    def radius(self) -> dict[Norm, float]:
        """Per norm, in units of [0, 1] images; 0 where abstained."""
        return {norm: float(self.noise.radius(self.p_low, norm, self.dims)) for norm in NORMS}

    def statement(self, norm: Norm = "l2") -> str:
        """The promise in words."""
        if self.abstained:
            return "No promise: the smoothed classifier abstains."
        sure = (
            f"All {self.n} draws were evaluated, so this is no matter of chance"
            if self.level == 0
            else f"With probability at least 1 - {self.alpha:g} over the sampling of noise"
        )
        if not self.radius[norm] > 0:
            return f"No promise in {norm}: the radius is 0."
        stays = "answers" if self.level == 0 else "has most often"
        return (
            f"{sure}: the smoothed classifier (base {self.model}, {self.noise!r}) {stays} {self.selected} for every "
            f"{self.noise.domain} at a distance below {below(self.radius[norm])} in {norm}{'' if self.level == 0 else MAY}. "
            "This says nothing of the base model on its own."
        )

    def row(self) -> dict[str, Any]:
        """All of it as JSON values; what is derived stands beside the counts, for `recheck`."""
        return {
            "selected": self.selected,
            "counts": {str(label): count for label, count in self.counts.items() if count},
            "n0": self.n0,
            "n": self.n,
            "level": self.level,
            "p_low": self.p_low,
            "prediction": self.prediction,
            "radius": dict(self.radius),
            **self.extra,
        }
