"""Verdicts: the worst case of several attacks, and whether one defence is better than another."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .metrics import Metric, Statistics, paired_difference

ENOUGH = 8  # images for a verdict: with fewer, intervals are too rough


def worst_case(metrics: Sequence[Metric], rows: Sequence[dict[str, Statistics]]) -> dict[str, Statistics]:
    """For each image one of `rows`, so chosen that the first metric over all images is as low as a greedy search gets it.

    A row holds statistics [N, K] by metric. The search starts from the lowest single row or from each image's own lowest
    one, whichever is lower: a pooled metric such as mean IoU is no mean over images. Never above any single row.
    """
    first = metrics[0]
    options = np.stack([row[first.name] for row in rows])  # rows x images x K
    scores = np.array([[first.summarise(image) for image in row] for row in options])
    images = np.arange(options.shape[1])
    starts = [np.nan_to_num(scores, nan=np.inf).argmin(axis=0), *(np.full_like(images, k) for k in range(len(options)))]
    pick = _descend(first, options, min(starts, key=lambda p: first.summarise(options[p, images].sum(axis=0))))
    return {m.name: np.stack([rows[k][m.name][image] for image, k in enumerate(pick)]) for m in metrics}


def _descend(metric: Metric, options: Statistics, pick: NDArray[np.int64], rounds: int = 5) -> NDArray[np.int64]:
    """Change one image's row at a time while that lowers the value over all images (after SEA, Croce et al., 2024)."""
    pick = pick.copy()
    total = options[pick, np.arange(len(pick))].sum(axis=0)
    for _ in range(rounds):
        before = pick.copy()
        for image in range(len(pick)):
            rest = total - options[pick[image], image]
            values = [metric.summarise(rest + row[image]) for row in options]
            if min(values) < metric.summarise(total) - 1e-9:
                pick[image] = int(np.argmin(values))
                total = rest + options[pick[image], image]
        if (pick == before).all():
            break
    return pick


def compare(metric: Metric, first: Statistics, second: Statistics, what: str) -> str:
    """One sentence: better, worse, or no difference beyond chance, with the paired difference and its interval."""
    difference, (low, high) = paired_difference(metric, first, second)
    word = "better" if low > 0 else "worse" if high < 0 else "no difference beyond chance"
    if len(first) < ENOUGH:
        word = f"too few images for a verdict ({len(first)}, at least {ENOUGH})"
    digits = 2 if metric.unit == "dB" else 3
    interval = f" [{low:+.{digits}f}, {high:+.{digits}f}]" if low == low else ""
    return (
        f"{what}: {word}; {metric.name} {metric.value(first):.{digits}f} against {metric.value(second):.{digits}f}, "
        f"difference {difference:+.{digits}f}{interval}, paired over {len(first)} images."
    )
