"""From a smoothed model and labelled batches to a report of certificates."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..runs import spawn
from . import bounds
from .certificate import Certificate
from .classifier import Looks, SmoothedClassifier
from .report import CertifiedReport
from .restorer import SmoothedRestorer, like, psnr
from .segmenter import SegmentationCertificate, SmoothedSegmenter, correction_name
from .stream import bound

Batches = Iterable[tuple[Tensor, Tensor]]
Part = tuple[Tensor, Tensor, int | None, Path | None]
Shape = Callable[[Tensor], tuple[int, ...]]
Done = Callable[[int], None]
"""Called with the number of images done."""


def _parts(batches: Batches, seed: int | None, folder: str | Path | None, shape: Shape) -> Iterable[Part]:
    """Each batch with a seed and a folder of its own; ValueError for targets of another shape, and where there is no batch."""
    number = -1
    for number, (images, target) in enumerate(batches):
        wanted = shape(images)
        if not isinstance(target, Tensor) or tuple(target.shape) != wanted:
            got = list(target.shape) if isinstance(target, Tensor) else type(target).__name__
            raise ValueError(f"batches: expected targets {list(wanted)} for images {list(images.shape)}, got {got}")
        own = None if seed is None else spawn(seed, f"batch {number}")
        yield images, target, own, None if folder is None else Path(folder) / f"part-{number:06d}"
    if number < 0:
        raise ValueError("batches: expected at least one of (images, targets), got none: is the loader used up?")


def measure_classifier(
    smoothed: SmoothedClassifier,
    batches: Batches,
    draws: tuple[int, int] = (100, 10_000),
    alpha: float = 0.001,
    seed: int | None = 0,
    folder: str | Path | None = None,
    looks: Looks | None = None,
    progress: Done | None = None,
) -> CertifiedReport:
    """Certify every image of (images [N, C, H, W], labels [N]); `draws`: (n0, n). Goes on in `folder` after a kill."""
    rows: list[dict[str, Any]] = []
    noise = smoothed.noise
    with bound(smoothed.model) as base:
        for images, target, own, place in _parts(batches, seed, folder, lambda x: (len(x),)):
            found = smoothed.certify(images, *draws, alpha, own, place, looks)
            rows += [{**c.row(), "target": int(label), "shape": list(c.shape)} for c, label in zip(found, target, strict=True)]
            if progress is not None:
                progress(len(rows))
    level = 0.0 if noise.count is not None else alpha / (1 if looks is None else len(looks.at))
    known = draws if noise.count is None else (noise.count, noise.count)
    about = _about(smoothed, base, known, 0.0 if noise.count is not None else alpha, seed)
    return CertifiedReport(
        "classification", rows, {**about, "level": level, "looks": None if looks is None else list(looks.at)}
    )


def measure_segmenter(
    smoothed: SmoothedSegmenter,
    batches: Batches,
    draws: tuple[int, int] = (100, 1000),
    alpha: float = 0.001,
    seed: int | None = 0,
    folder: str | Path | None = None,
    correction: bounds.Correction = bounds.holm,
    ignore: int = 255,
    progress: Done | None = None,
) -> CertifiedReport:
    """Certify every image of (images, label maps [N, H, W]); pixels labelled `ignore` are tested but not scored."""
    rows: list[dict[str, Any]] = []
    with bound(smoothed.model) as base:
        for images, target, own, place in _parts(batches, seed, folder, lambda x: (len(x), *x.shape[2:])):
            found = smoothed.certify(images, *draws, alpha, correction, own, place)
            rows += [segmentation_row(c, labels.cpu(), ignore) for c, labels in zip(found, target, strict=True)]
            if progress is not None:
                progress(len(rows))
    about = _about(smoothed, base, draws, alpha, seed) | {"tau": smoothed.tau, "correction": correction_name(correction)}
    return CertifiedReport("segmentation", rows, about | {"ignore": ignore})


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
    progress: Done | None = None,
) -> CertifiedReport:
    """Certify the median image for every (images, targets) at L2 sizes `eps`. The JSON holds PSNR, no counts: no recheck."""
    rows: list[dict[str, Any]] = []
    with bound(smoothed.model) as base:
        for images, target, own, place in _parts(batches, seed, folder, lambda x: tuple(x.shape)):
            found = smoothed.median(images, eps, n, alpha, seed=own, folder=place)
            for image, wanted, certificates in zip(images, target, found, strict=True):
                error = float((image.double() - like(wanted, image)).square().mean()) + smoothed.noise.sigma**2
                floors = {f"{c.eps:g}": c.psnr_low(wanted) for c in certificates}
                rows.append({"noisy": psnr(error), "psnr": certificates[0].psnr(wanted), "certified": floors})
            if progress is not None:
                progress(len(rows))
    about = _about(smoothed, base, (50, n), alpha, seed)
    return CertifiedReport("restoration", rows, about | {"eps": [float(e) for e in eps]})


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
