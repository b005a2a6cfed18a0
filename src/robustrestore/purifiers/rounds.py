"""Purification in several rounds of noise and sampling (Lee and Kim, 2023)."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from ..arguments import level, whole
from ..diffusion import DDPM, Denoiser, TimestepGrid
from ..runs import Runs, reseeded
from ..stage import Purifier
from .diffusion import Diffusion

CIFAR = ((30, 4), (50, 2), (125, 2))  # noise of so many timesteps, how often


class Rounds(Purifier, name="rounds"):
    """One round of diffusion after the other, each with noise of its own, levels mostly rising (Lee and Kim, 2023).

    `rounds`: pairs [sigma, steps], in [0, 1] units. All else is that of `purifier`, whose own sigma and steps are not used.
    With a seed every round has other noise, in its guidance too, and every image the same; the first round's is that of
    `purifier`, so that one pair is one `Diffusion`. Nothing is clamped between rounds. Calls: the sum of the steps. Gradients
    are exact, at the memory of one network call and one image a step if `purifier` is checkpointed.
    """

    def __init__(self, purifier: Diffusion, rounds: Sequence[Sequence[float]]) -> None:
        super().__init__()
        if not isinstance(purifier, Diffusion):
            raise TypeError(f"purifier: expected a purifiers.Diffusion, got {type(purifier).__name__}")
        if not rounds or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in rounds):
            raise ValueError(f"rounds: expected pairs such as [[0.05, 10], [0.2, 40]], got {rounds!r}")
        self.purifier, self.multiple = purifier, purifier.multiple
        self.rounds: list[list[float]] = [[level(sigma), whole(steps, "steps")] for sigma, steps in rounds]
        self._runs = self._passes()

    def _passes(self) -> Runs:
        self._made = [list(pair) for pair in self.rounds]
        return Runs(self.purifier, partial(_passes, rounds=self._made))

    @classmethod
    def lee_kim_cifar(cls, denoiser: Denoiser, seed: int | None = 0) -> "Rounds":
        """Theirs for CIFAR-10: 30 timesteps four times, 50 and 125 twice, of 1000 linear ones; DDPM, every timestep, 470 calls.

        For SVHN and ImageNet they put 80 and 200 in place of 125.
        """
        grid = TimestepGrid()
        purifier = Diffusion(denoiser, sampler=DDPM(grid), seed=seed)
        return cls(purifier, [[grid.sigma(timesteps), timesteps] for timesteps, often in CIFAR for _ in range(often)])

    @property
    def seed(self) -> int | None:
        """That of `purifier`."""
        return self.purifier.seed

    def run(self, images: Tensor) -> Tensor:
        """Round after round."""
        if self._made != self.rounds:
            self._runs = self._passes()
        for one in self._runs.of(self.purifier):
            images = one.run(images)
        return images


def _passes(purifier: Diffusion, rounds: list[list[float]]) -> list[Diffusion]:
    """The purifier of each round: the first with the seeds as they are, the others with some of their own."""
    others = [reseeded(purifier, f"round {k}") for k in range(1, len(rounds))]
    return [one.replace(sigma=sigma, steps=steps) for one, (sigma, steps) in zip([purifier, *others], rounds, strict=True)]
