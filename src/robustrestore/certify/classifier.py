"""SmoothedClassifier: the class that a model gives most often under noise, and how far that can be promised."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import bounds
from .certificate import Certificate
from .noise import Noise, Norm
from .spread import Progress, Tally, tallies
from .stream import ChunkSize, Model, answers, check, fingerprint, kept, sampling


@dataclass(frozen=True)
class Looks:
    """When a count may stop early: after each of `at` draws (rising; the last is n), all tests sharing alpha evenly.

    It stops once the radius in `norm` is at least `radius`, or once the selected class is unlikely to reach one half (an
    upper bound at the same level; abstaining needs no alpha). A union bound over the looks, so any of them may decide: our
    choice. A radius is smaller than without looks at the same alpha.
    """

    at: Sequence[int]
    radius: float
    norm: Norm = "l2"

    def __post_init__(self) -> None:
        if len(self.at) < 2 or any(b <= a for a, b in zip(self.at, self.at[1:], strict=False)) or self.at[0] < 1:
            raise ValueError(f"at: expected two or more rising numbers of draws, got {list(self.at)}")


@dataclass(frozen=True)
class Prediction:
    """The answer of a smoothed classifier at one image: `prediction`, a class, or None where it abstains."""

    prediction: int | None
    counts: tuple[int, ...]
    p_value: float
    alpha: float


class SmoothedClassifier:
    """`model` under `noise`: randomised smoothing (Cohen, Rosenfeld and Kolter, 2019), for any callable from images to [N, K].

    What is certified is this object's answer, not the model's: deploy `predict`. Noise comes before anything that the model
    does, normalisation included, so radii are in units of [0, 1] images. `chunk`: noisy images at once; None finds it.
    """

    def __init__(self, model: Model, noise: Noise, chunk: int | None = None) -> None:
        self.model, self.noise, self.chunk = model, noise, chunk
        self._size = ChunkSize(chunk)

    def __repr__(self) -> str:
        return f"SmoothedClassifier({type(self.model).__name__}, {self.noise!r})"

    def predict(self, images: Tensor, n: int = 100, alpha: float = 0.001, seed: int | None = None) -> list[Prediction]:
        """One answer an image, each other than the smoothed model's true class with probability at most `alpha`.

        A two-sided test of the first two counts against one half (Cohen et al.). A `seed` repeats the draws; keep None where an
        attacker may know the seed; the draws are others than those of `certify` under it. A finite noise is gone through, and
        nothing is left to chance; the model must be deterministic then. Warns where `n` draws can only abstain.
        """
        check(self.model, self.noise, images)
        bounds.check_alpha(alpha)
        bounds.check_counts(n=n)
        if self.noise.count is None and 2.0 ** (1 - n) > alpha:
            _warn(n, alpha, bounds.fewest_samples(0.5, alpha / 2))
        return [self._predicted(image, n, alpha, seed, number) for number, image in enumerate(images)]

    def _predicted(self, image: Tensor, n: int, alpha: float, seed: int | None, number: int) -> Prediction:
        from scipy.stats import binomtest

        whole = self.noise.count
        with sampling(self.model, self.noise, image, self._size, seed, f"predict {number}") as blocks:
            counts = self._counted(blocks, whole or n)
        first, second = counts.topk(2).values.tolist()
        known = tuple(counts.tolist())
        if whole is not None:
            return Prediction(int(counts.argmax()) if first > second else None, known, 0.0 if first > second else 1.0, 0.0)
        value = float(binomtest(first, first + second, 0.5).pvalue)
        return Prediction(int(counts.argmax()) if value <= alpha else None, known, value, alpha)

    def certify(
        self,
        images: Tensor,
        n0: int = 100,
        n: int = 10_000,
        alpha: float = 0.001,
        seed: int | None = 0,
        folder: str | Path | None = None,
        looks: Looks | None = None,
        progress: Progress | None = None,
    ) -> list[Certificate]:
        """One certificate an image, each wrong with probability at most `alpha` over the noise.

        `n0` draws choose the class, `n` fresh ones bound its probability. For a statement about all of N images at once hand
        over alpha / N. Under a `seed` the draws are the same on one kind of device, whatever the chunk; an attacker who knows
        it could choose images by them, so it is for measurements. `folder`: finished images are kept there, and a killed run
        goes on. `looks`: stop early. Memory does not grow with `n`. Under `torchrun` the processes share the images, and each
        hands back all certificates. Under a finite noise all draws are gone through, and the model must be deterministic:
        ValueError otherwise. Warns where `n` draws can only abstain.
        """
        check(self.model, self.noise, images)
        bounds.check_alpha(alpha)
        bounds.check_counts(n0=n0, n=n)
        if looks is not None and (looks.at[-1] != n or self.noise.count is not None):
            raise ValueError(
                f"looks: expected ones that end at n = {n}, of a noise drawn at random, got {looks}, {self.noise!r}"
            )
        level = alpha / (1 if looks is None else len(looks.at))
        if self.noise.count is not None:
            n0 = n = self.noise.count
        elif float(bounds.lower(n, n, level)) <= 0.5:
            _warn(n, level, bounds.fewest_samples(0.5, level * (1 - 1e-9)))
        base = fingerprint(self.model)
        about = self._about(base, n0, n, alpha, seed, looks)
        journal = kept(folder, self.model, about)

        def count(image: Tensor, number: int) -> Tally:
            return self._tally(image, (n0, n, alpha), seed, number, looks)

        shape, known = tuple(images.shape[1:]), tallies(images, journal, count, progress, about)
        return [self._certificate(done, shape, (n0, alpha), base, looks) for done in known]

    def _about(self, base: str, n0: int, n: int, alpha: float, seed: int | None, looks: Looks | None) -> dict[str, Any]:
        return {
            "what": "classifier",
            "model": base,
            "noise": self.noise.config(),
            "draws": [n0, n],
            "alpha": alpha,
            "seed": seed,
            "looks": None if looks is None else [list(looks.at), looks.radius, looks.norm],
        }

    def _tally(
        self, image: Tensor, wanted: tuple[int, int, float], seed: int | None, number: int, looks: Looks | None
    ) -> Tally:
        """The counts of both phases: all that is random."""
        n0, n, alpha = wanted
        with sampling(self.model, self.noise, image, self._size, seed, str(number)) as blocks:
            counts = chosen = self._counted(blocks, n0)
            if self.noise.count is None:
                counts = self._looked(blocks, int(chosen.argmax()), n, alpha, image.numel(), looks)
        return {"chosen": chosen, "counts": counts}

    def _looked(self, blocks: Iterator[Tensor], label: int, n: int, alpha: float, values: int, looks: Looks | None) -> Tensor:
        """The counts of the second phase, up to the look that decides."""
        if looks is None:
            return self._counted(blocks, n)
        level, before, total = alpha / len(looks.at), 0, None
        for at in looks.at:
            more = self._counted(blocks, at - before)
            total, before = more if total is None else total + more, at
            k = int(total[label])
            radius = float(self.noise.radius(bounds.lower(k, at, level), looks.norm, values))
            if radius >= looks.radius > 0 or bounds.upper(k, at, level) < 0.5:
                break
        return more if total is None else total

    def _counted(self, blocks: Iterator[Tensor], count: int) -> Tensor:
        """How often each class was the answer, [K], counted on the device."""
        counts: Tensor | None = None
        broken: Tensor | None = None
        for outputs in answers(self.model, blocks, count, self._size):
            if outputs.dim() != 2 or outputs.shape[1] < 2:
                raise ValueError(f"model: expected class scores [N, K] with K >= 2, got {list(outputs.shape)}")
            labels = outputs.argmax(1)
            one = torch.zeros(outputs.shape[1], dtype=torch.int64, device=labels.device)
            one.scatter_add_(0, labels, torch.ones_like(labels))  # unlike bincount it waits for no device
            bad = ~outputs.amax(1).isfinite().all()  # -inf masks a class and does no harm
            counts, broken = (one, bad) if counts is None or broken is None else (counts + one, broken | bad)
        if counts is None or bool(broken):
            raise ValueError("model: expected class scores below infinity under noise, got NaN or infinity")
        return counts

    def _certificate(
        self, done: Tally, shape: tuple[int, ...], wanted: tuple[int, float], base: str, looks: Looks | None
    ) -> Certificate:
        counts, (n0, alpha) = done["counts"].tolist(), wanted
        level = 0.0 if self.noise.count is not None else alpha / (1 if looks is None else len(looks.at))
        known = {label: count for label, count in enumerate(counts) if count}
        selected = int(done["chosen"].argmax())
        return Certificate(selected, known, n0, sum(counts), level, alpha, self.noise, shape, base)


def _warn(n: int, alpha: float, needed: int) -> None:
    warnings.warn(
        f"n = {n}: at alpha {alpha:g} even {n} answers of one class are too few to say anything, so it always abstains: draw "
        f"{needed} or more",
        stacklevel=3,
    )
