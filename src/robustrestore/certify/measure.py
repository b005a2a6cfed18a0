"""From a smoothed model and labelled batches to a report of certificates."""

import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..runs import spawn
from . import bounds
from .additive import Gaussian
from .certificate import Certificate
from .classifier import Looks, SmoothedClassifier
from .evidence import Evidence
from .report import CertifiedReport
from .restorer import IntervalCertificate, SmoothedRestorer, intervals, like, median_bounds, psnr, sizes
from .segmenter import SegmentationCertificate, SmoothedSegmenter, correction_name
from .spread import Progress, SameBatches, Tally, agree, alone, gathered, place
from .stream import bound

Batches = Iterable[tuple[Tensor, Tensor]]
Shape = Callable[[Tensor], tuple[int, ...]]
Row = dict[str, Any]
Work = Callable[[Tensor, Tensor, int | None, Path | None], tuple[Row, Evidence | None]]
"""`(one image [1, ...], its target, seed, folder) -> its row`."""


def _measured(
    batches: Batches, about: Row, folder: str | Path | None, shape: Shape, progress: Progress | None, work: Work
) -> tuple[list[Row], list[Evidence]]:
    """The row of every image, each with a seed and a folder of its own, so that neither batches nor processes matter.

    Under `torchrun` or `accelerate launch` the processes share the images. ValueError for targets of another shape, where
    there is no batch, and where the processes differ in `about`, model and settings, or in their batches.
    """
    (rank, world), same, seed = place(), SameBatches(), about["seed"]
    agree(about)
    own: dict[int, tuple[Row, Evidence | None]] = {}
    number = known = 0
    for images, target in batches:
        _check_target(images, target, shape(images))
        same.add(images, target)
        known = known or operator.length_hint(batches) * len(images)  # the last batch may be smaller
        for image, wanted in zip(images, target, strict=True):
            if number % world == rank:
                drawn = None if seed is None else spawn(seed, f"image {number}")
                kept = None if folder is None else Path(folder) / f"part-{number:06d}"
                with alone():
                    own[number] = work(image[None], wanted, drawn, kept)
            number += 1
            if progress is not None and rank == 0:
                progress(number, max(number, known))
    same.ask()
    if not number:
        raise ValueError("batches: expected at least one of (images, targets), got none: is the loader used up?")
    if progress is not None and rank == 0 and known != number:
        progress(number, number)
    found = [own[k] for k in range(number)] if world == 1 else _together(own, number)
    return [row for row, _ in found], [one for _, one in found if one is not None]


def _check_target(images: Tensor, target: object, wanted: tuple[int, ...]) -> None:
    if not isinstance(target, Tensor) or tuple(target.shape) != wanted:
        got = list(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(f"batches: expected targets {list(wanted)} for images {list(images.shape)}, got {got}")


def _together(own: Mapping[int, tuple[Row, Evidence | None]], count: int) -> list[tuple[Row, Evidence | None]]:
    """The rows of all processes, in all processes: as JSON, beside the tensors of evidence."""
    told: dict[int, Tally] = {}
    for number, (row, evidence) in own.items():
        held = {} if evidence is None else evidence.tensors()
        told[number] = {**held, "row": torch.frombuffer(bytearray(json.dumps(row).encode()), dtype=torch.uint8)}
    found: list[tuple[Row, Evidence | None]] = []
    for tally in gathered(told, count):
        row = json.loads(tally.pop("row").numpy().tobytes())
        found.append((row, Evidence(tally) if tally else None))
    return found


def measure_classifier(
    smoothed: SmoothedClassifier,
    batches: Batches,
    draws: tuple[int, int] = (100, 10_000),
    alpha: float = 0.001,
    seed: int | None = 0,
    folder: str | Path | None = None,
    looks: Looks | None = None,
    progress: Progress | None = None,
) -> CertifiedReport:
    """Certify every image of (images [N, C, H, W], labels [N]); `draws`: (n0, n). Goes on in `folder` after a kill."""
    noise = smoothed.noise

    def work(image: Tensor, label: Tensor, own: int | None, kept: Path | None) -> tuple[Row, None]:
        (found,) = smoothed.certify(image, *draws, alpha, own, kept, looks)
        return {**found.row(), "target": int(label), "shape": list(found.shape)}, None

    level = 0.0 if noise.count is not None else alpha / (1 if looks is None else len(looks.at))
    known = draws if noise.count is None else (noise.count, noise.count)
    with bound(smoothed.model) as base:
        about = _about(smoothed, base, known, 0.0 if noise.count is not None else alpha, seed)
        about |= {"level": level, "looks": None if looks is None else list(looks.at)}
        rows, _ = _measured(batches, about, folder, lambda x: (len(x),), progress, work)
    return CertifiedReport("classification", rows, about)


def measure_segmenter(
    smoothed: SmoothedSegmenter,
    batches: Batches,
    draws: tuple[int, int] = (100, 1000),
    alpha: float = 0.001,
    seed: int | None = 0,
    folder: str | Path | None = None,
    correction: bounds.Correction = bounds.holm,
    ignore: int = 255,
    progress: Progress | None = None,
) -> CertifiedReport:
    """Certify every image of (images, label maps [N, H, W]); pixels labelled `ignore` are tested but not scored."""

    def work(image: Tensor, labels: Tensor, own: int | None, kept: Path | None) -> tuple[Row, None]:
        (found,) = smoothed.certify(image, *draws, alpha, correction, own, kept)
        return segmentation_row(found, labels.cpu(), ignore), None

    with bound(smoothed.model) as base:
        about = _about(smoothed, base, draws, alpha, seed) | {"tau": smoothed.tau, "correction": correction_name(correction)}
        about |= {"ignore": ignore}
        rows, _ = _measured(batches, about, folder, lambda x: (len(x), *x.shape[2:]), progress, work)
    return CertifiedReport("segmentation", rows, about)


def segmentation_row(certificate: SegmentationCertificate, target: Tensor, ignore: int) -> dict[str, Any]:
    """What a report keeps of a label map: at each count, how many pixels, how many labelled, how many right."""
    tree, candidates = certificate.hierarchy, certificate.candidates.long()
    valid = target != ignore
    known = target.where(valid, torch.zeros(())).long()
    right = (candidates == known) & valid
    if tree is not None:
        right = (tree.table()[:, known] == candidates).any(0) & valid
    counts = certificate.counts.long()
    size = int(counts.max()) + 1
    columns = [torch.bincount(counts[mask], minlength=size) for mask in (counts >= 0, valid, right)]
    table = {str(k): [int(c[k]) for c in columns] for k in range(size) if columns[0][k]}
    kept = certificate.certified
    row: dict[str, Any] = {
        "counts": table,
        "threshold": certificate.threshold,
        "pixels": counts.numel(),
        "labelled": int(valid.sum()),
        "kept": int((kept & valid).sum()),
        "right": int((kept & right).sum()),
        "radius": dict(certificate.radius),
        "shape": list(certificate.shape),
    }
    if tree is not None:
        return row | {"gain": float(tree.gains()[candidates][kept & right].sum())}
    return row | _overlap(candidates, known, valid, kept)


def _overlap(candidates: Tensor, known: Tensor, valid: Tensor, kept: Tensor) -> dict[str, list[int]]:
    """Intersection and union of each class; a pixel that abstains belongs to its true class and to no prediction."""
    size = int(max(candidates.max(), known.max())) + 1
    true = torch.bincount(known[valid], minlength=size)
    said = torch.bincount(candidates[kept & valid], minlength=size)
    both = torch.bincount(known[kept & valid & (candidates == known)], minlength=size)
    return {"intersection": both.tolist(), "union": (true + said - both).tolist()}


def measure_restorer(
    smoothed: SmoothedRestorer,
    batches: Batches,
    eps: Sequence[float],
    n: int = 1000,
    alpha: float = 0.001,
    seed: int | None = 0,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> CertifiedReport:
    """Certify the median image for every (images, targets) at L2 sizes `eps`.

    The report holds what was counted and the targets, some 140 bytes for each value of an image; with a `folder` the counts
    stay there until the report is saved.
    """
    wanted = sizes(eps)

    def work(image: Tensor, target: Tensor, own: int | None, kept: Path | None) -> tuple[Row, Evidence]:
        (counted,) = smoothed.counts(image, n, seed=own, folder=kept)
        found = restoration_row(counted, target, (wanted, n, alpha, smoothed.noise))
        noisy = float((image[0].double() - like(target, image[0])).square().mean()) + smoothed.noise.sigma**2
        held = {"target": target.detach().cpu()} | ({} if kept is not None else counted)
        evidence = Evidence(held, None if kept is None else kept / "batch-000000.safetensors")
        return {"noisy": psnr(noisy), **found, "shape": list(image.shape[1:]), "counts": evidence.digest()}, evidence

    with bound(smoothed.model) as base:
        about = _about(smoothed, base, (50, n), alpha, seed) | {"eps": wanted}
        rows, evidence = _measured(batches, about, folder, lambda x: tuple(x.shape), progress, work)
    return CertifiedReport("restoration", rows, about, evidence=tuple(evidence))


def restoration_row(counted: Tally, target: Tensor, known: tuple[Sequence[float], int, float, Gaussian]) -> Row:
    """What follows from the counts of one image: the PSNR of its median, and for each size the certified one.

    `known`: sizes, n, alpha and noise.
    """
    eps, n, alpha, noise = known
    found = [
        IntervalCertificate(
            "median", *intervals(counted, size / noise.sigma, n, alpha, median_bounds), size, n, alpha, noise, ""
        )
        for size in eps
    ]
    return {"psnr": found[0].psnr(target), "certified": {bounds.written(c.eps): c.psnr_low(target) for c in found}}


def _about(smoothed: Any, base: str, draws: tuple[int, int], alpha: float, seed: int | None) -> dict[str, Any]:
    return {
        "smoothed": repr(smoothed),
        "noise": smoothed.noise.config(),
        "model": base,
        "draws": list(draws),
        "alpha": alpha,
        "seed": seed,
    }


def certificate_of(row: dict[str, Any], about: dict[str, Any]) -> Certificate:
    """The certificate that a row of a classification report tells of, from its counts alone."""
    from .noise import Noise

    counts = {int(label): int(count) for label, count in row["counts"].items()}
    total = sum(counts.values())
    noise, shape = Noise.of(about["noise"]), tuple(int(s) for s in row["shape"])
    known = (about["level"], about["alpha"], noise, shape, about["model"])
    if total != row["n"] or math.prod(shape) < 1:
        raise ValueError(f"counts: expected {row['n']} draws, got {total}")
    return Certificate(int(row["selected"]), counts, int(row["n0"]), total, *known)
