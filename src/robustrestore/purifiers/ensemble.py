"""The mean of several runs of a random purifier."""

from functools import partial

import torch
from torch import Tensor

from ..arguments import whole
from ..runs import Runs, repeated
from ..stage import Purifier, Stage


class Ensemble(Purifier, name="ensemble"):
    """The mean image of `runs` runs of a random `purifier`, whose variance is 1 / `runs` of one run's.

    A purifier with a seed gets another one for each run, made from its own, and so does its guidance; with `seed=None` it draws
    afresh. One run after the other: without gradients the memory is that of one run, with gradients it grows with `runs`, by
    one image a run and step where the purifier is checkpointed. Gradients are exact, through every run. The mean of what the
    model says is a `MeanVote`, not this. Without randomness in the purifier it is that purifier, at `runs` times its price.
    """

    def __init__(self, purifier: Stage, runs: int = 10) -> None:
        super().__init__()
        if not isinstance(purifier, Stage):
            raise TypeError(f"purifier: expected a purifier such as purifiers.Diffusion, got {type(purifier).__name__}")
        self.purifier, self.runs = purifier, whole(runs, "runs")
        self._runs = self._repeated()

    def _repeated(self) -> Runs:
        return Runs(self.purifier, partial(repeated, what="run", count=self.runs))

    @property
    def seed(self) -> int | None:
        """That of `purifier`; 0 where it has none."""
        found: int | None = getattr(self.purifier, "seed", 0)
        return found

    def run(self, images: Tensor) -> Tensor:
        """The mean of the members' images, summed in at least single precision."""
        total = torch.zeros_like(images, dtype=torch.promote_types(images.dtype, torch.float32))
        if len(self._runs) != self.runs:
            self._runs = self._repeated()
        for member in self._runs.of(self.purifier):
            total = total + member(images)
        return (total / self.runs).to(images.dtype)
