"""SmoothedSegmenter: the label map that a model gives most often under noise, pixel by pixel (SegCertify)."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..identity import of_callable
from . import bounds
from .bounds import below
from .certificate import MAY
from .hierarchy import Hierarchy
from .noise import NORMS, Noise, Norm
from .spread import Progress, Tally, tallies
from .stream import ChunkSize, Model, answers, check, fingerprint, kept, sampling

ABSTAINED = -1


@dataclass(frozen=True, eq=False)
class SegmentationCertificate:
    """One label map. `candidates`: vertex a pixel [H, W], the class most often seen in the `n0` selection draws; `counts`: how
    often each was seen again in the `n` fresh ones. What is certified follows from these.
    """

    candidates: Tensor
    counts: Tensor
    n0: int
    n: int
    tau: float
    alpha: float
    noise: Noise
    shape: tuple[int, ...]
    model: str
    correction: bounds.Correction
    hierarchy: Hierarchy | None = None

    @cached_property
    def certified(self) -> Tensor:
        """Which pixels are certified [H, W]: all of them at once, wrong anywhere with probability at most alpha."""
        return self.counts >= self.threshold

    @cached_property
    def threshold(self) -> int:
        """The least count that is enough, given all the others; n + 1 where none is."""
        return least_count(torch.bincount(self.counts.flatten().long()).tolist(), self.n, self.tau, self.alpha, self.correction)

    @cached_property
    def labels(self) -> Tensor:
        """The certified vertices [H, W], int64, and -1 where abstained."""
        return torch.where(self.certified, self.candidates.long(), ABSTAINED)

    @cached_property
    def radius(self) -> dict[Norm, float]:
        """Per norm, the one radius of all certified pixels."""
        dims = self.shape[0] * self.shape[1] * self.shape[2]
        return {norm: float(self.noise.radius(self.tau, norm, dims)) for norm in NORMS}

    def statement(self, norm: Norm = "l2") -> str:
        """The promise in words."""
        certified, known = int(self.certified.sum()), self.counts.numel()
        if not certified or not self.radius[norm] > 0:
            return f"No promise in {norm}: {certified} of {known} pixels are certified, at a radius of {self.radius[norm]:g}."
        return (
            f"With probability at least 1 - {self.alpha:g} over the sampling of noise, jointly for {certified} of {known} "
            f"pixels: their class stays that of the smoothed segmenter (base {self.model}, {self.noise!r}) for every "
            f"{self.noise.domain} at a distance below {below(self.radius[norm])} in {norm}{MAY}. This says nothing of the base "
            "model on its own."
        )


def least_count(histogram: list[int], n: int, tau: float, alpha: float, correction: bounds.Correction) -> int:
    """The least count that a correction for many tests lets pass, for so many pixels at each count from 0 up."""
    values = np.repeat(bounds.at_least(np.arange(len(histogram)), n, tau), histogram)
    passed = correction(values, alpha)
    return int(np.repeat(np.arange(len(histogram)), histogram)[passed].min()) if passed.any() else n + 1


class SmoothedSegmenter:
    """`model` under `noise`, each pixel its most frequent class: SegCertify (Fischer, Baader and Vechev, 2021).

    For any callable from images to class scores [N, C, H, W]. A pixel is certified where its class has a probability above
    `tau`, and the radius is that of `tau`, one for all pixels; the others abstain. What is certified is this object's map, not
    the model's. `hierarchy`: where the model wavers, a coarser class instead (AdaptiveCertify, Anani et al., 2024; here the
    test is over the fresh draws alone). Noise comes before normalisation, so radii are in units of [0, 1] images.
    """

    def __init__(
        self, model: Model, noise: Noise, tau: float = 0.75, hierarchy: Hierarchy | None = None, chunk: int | None = None
    ) -> None:
        if not 0.5 <= tau < 1:
            raise ValueError(f"tau: expected a probability in [0.5, 1), got {tau}")
        if isinstance(noise, Noise) and noise.count is not None:
            raise TypeError(f"noise: expected one that is drawn at random, got {noise!r}: use SSN for DSSN")
        self.model, self.noise, self.tau, self.hierarchy, self.chunk = model, noise, float(tau), hierarchy, chunk
        self._size = ChunkSize(chunk)

    def __repr__(self) -> str:
        return f"SmoothedSegmenter({type(self.model).__name__}, {self.noise!r}, tau={self.tau:g})"

    def certify(
        self,
        images: Tensor,
        n0: int = 100,
        n: int = 1000,
        alpha: float = 0.001,
        correction: bounds.Correction = bounds.holm,
        seed: int | None = 0,
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> list[SegmentationCertificate]:
        """One certificate an image, wrong at any of its pixels with probability at most `alpha` over the noise.

        `n0` draws choose each pixel's class (and level), `n` fresh ones test it. `correction`: over the pixels,
        `bounds.holm` or `bounds.bonferroni`. Memory grows with the pixels and the classes, not with `n`. A seed and a folder as
        for `SmoothedClassifier.certify`. Warns where `n` is too small for a first pixel to pass.
        """
        check(self.model, self.noise, images)
        bounds.check_alpha(alpha)
        bounds.check_counts(n0=n0, n=n)
        self._warn(n, alpha, images.shape[-2] * images.shape[-1])
        base = fingerprint(self.model)
        about: dict[str, Any] = {
            "what": "segmenter",
            "model": base,
            "noise": self.noise.config(),
            "draws": [n0, n],
            "seed": seed,
        }
        about |= {"hierarchy": None if self.hierarchy is None else self.hierarchy.about()}
        journal = kept(folder, self.model, about)

        def count(image: Tensor, number: int) -> Tally:
            with sampling(self.model, self.noise, image, self._size, seed, str(number)) as blocks:
                return self._tally(blocks, n0, n)

        known: dict[str, Any] = {"tau": self.tau, "alpha": alpha, "correction": correction, "hierarchy": self.hierarchy}
        known |= {"noise": self.noise, "model": base, "shape": tuple(images.shape[1:])}
        about |= {"tau": self.tau, "alpha": alpha, "correction": correction_name(correction)}
        found = tallies(images, journal, count, progress, about)
        return [SegmentationCertificate(done["candidates"], done["counts"], n0, n, **known) for done in found]

    def _warn(self, n: int, alpha: float, pixels: int) -> None:
        needed = bounds.fewest_samples(self.tau, alpha / pixels)
        if n < needed:
            warnings.warn(
                f"n = {n}: with {pixels} pixels, tau {self.tau:g} and alpha {alpha:g} the first pixel passes only from n = "
                f"{needed}: nothing can be certified; draw more, or lower tau",
                stacklevel=3,
            )

    def _tally(self, blocks: Iterator[Tensor], n0: int, n: int) -> Tally:
        """Both phases: each pixel's vertex, and how often it came again."""
        votes, margin, size = self._votes(blocks, n0)
        table = torch.arange(len(votes), device=votes.device)[None]
        if self.hierarchy is not None:
            if len(votes) != self.hierarchy.classes:
                raise ValueError(
                    f"hierarchy: expected {len(votes)} classes as in the model's output, got {self.hierarchy.classes}"
                )
            table = self.hierarchy.table().to(votes.device)
        level = torch.zeros_like(votes[0]) if self.hierarchy is None else self.hierarchy.level_of(margin / n0)
        candidates = _modes(votes, table, level)
        seen = torch.zeros_like(candidates, dtype=torch.int32)
        for labels, _ in self._labels(blocks, n):
            shown = labels if self.hierarchy is None else table[level.long()[None], labels]
            seen += (shown == candidates).sum(0, dtype=torch.int32)
        return {"candidates": candidates.to(torch.int16).view(size), "counts": seen.view(size)}

    def _votes(self, blocks: Iterator[Tensor], n0: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """How often each class was seen at each pixel [C, H * W], and the sum of margins [H * W] if they are asked for."""
        votes, margin, size = torch.empty(0), torch.empty(0), (0, 0)
        for labels, outputs in self._labels(blocks, n0):
            if votes.numel() == 0:
                size = (outputs.shape[2], outputs.shape[3])
                votes = torch.zeros(outputs.shape[1], labels.shape[1], dtype=torch.int32, device=labels.device)
                margin = torch.zeros(labels.shape[1], dtype=torch.float64, device=labels.device)
            votes.scatter_add_(0, labels, torch.ones_like(labels, dtype=torch.int32))
            if self.hierarchy is not None:
                two = F.softmax(outputs.float(), dim=1).topk(2, dim=1).values
                margin += (two[:, 0] - two[:, 1]).flatten(1).double().sum(0)
        return votes, margin, size

    def _labels(self, blocks: Iterator[Tensor], count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Label maps [c, H * W] and the class scores that they come from."""
        broken: Tensor | None = None
        for outputs in answers(self.model, blocks, count, self._size):
            if outputs.dim() != 4 or outputs.shape[1] < 2:
                raise ValueError(f"model: expected class scores [N, C, H, W] with C >= 2, got {list(outputs.shape)}")
            best = outputs.max(1)  # on CPU several times faster than argmax over channels
            bad = ~best.values.amax().isfinite()  # NaN and infinity both show
            broken = bad if broken is None else broken | bad
            yield best.indices.flatten(1), outputs
        if broken is None or bool(broken):
            raise ValueError("model: expected class scores below infinity under noise, got NaN or infinity")


def _modes(votes: Tensor, table: Tensor, level: Tensor) -> Tensor:
    """Each pixel's most frequent vertex at its level."""
    found = torch.zeros_like(level, dtype=torch.int64)
    for k, vertices in enumerate(table):
        coarse = torch.zeros(int(vertices.max()) + 1, votes.shape[1], dtype=votes.dtype, device=votes.device)
        coarse.index_add_(0, vertices, votes)
        found = torch.where(level == k, coarse.argmax(0), found)
    return found


def correction_name(correction: bounds.Correction) -> str:
    """How a report names it."""
    known = {"holm": bounds.holm, "bonferroni": bounds.bonferroni}
    return next((name for name, one in known.items() if one is correction), of_callable(correction))
