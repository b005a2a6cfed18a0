"""ROC figures of membership scores with 95 % intervals that hold for small samples: AUC, TPR at an FPR, balanced accuracy."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..certify import bounds

Scores = NDArray[np.float64]
TAIL = 0.0125  # a 95 % interval from two sides with two events each


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def auc(members: Scores, others: Scores) -> Estimate:
    """P(member scores above non-member) + half the ties; the interval is Newcombe's (2006, method 5), good at 1 too."""
    joined = np.concatenate([members, others])
    _, place, counts = np.unique(joined, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    m, n = len(members), len(others)
    value = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    return Estimate(value, _newcombe(value, m, n, -1), _newcombe(value, m, n, 1))


def _newcombe(value: float, m: int, n: int, side: int) -> float:
    """Where |t - value| = 1.96 sd(t), sd from Hanley and McNeil's variance with (m + n) / 2 - 1 for both sizes."""
    star = (m + n) / 2 - 1

    def far(t: float) -> bool:
        spread = t * (1 - t) * (1 + star * (1 - t) / (2 - t) + star * t / (1 + t)) / (m * n)
        return abs(t - value) > 1.959964 * math.sqrt(spread)

    near, end = value, 0.0 if side < 0 else 1.0
    if not far(end):
        return end
    for _ in range(50):
        middle = (near + end) / 2
        near, end = (near, middle) if far(middle) else (middle, end)
    return near


def tpr_at(fpr: float, members: Scores, others: Scores) -> Estimate:
    """The share of members above the threshold that lets at most `fpr` of the non-members through.

    The interval is distribution-free and holds for the true rate at the true `fpr`: the threshold of its lower end is one that
    has at most that false-positive rate with probability 1 - `TAIL` (order statistics), of its upper end at least that; the
    members above it are bounded after Clopper and Pearson. With too few non-members it reaches from 0, or to 1.
    """
    from scipy.stats import binom

    n, m = len(others), len(members)
    falling, counts = np.sort(others)[::-1], np.arange(n)
    allowed = math.floor(fpr * n + 1e-9)
    value = float((members > falling[allowed]).mean()) if allowed < n else 1.0
    strict = np.nonzero(binom.cdf(counts, n, fpr) <= TAIL)[0]  # so few false positives are unlikely at a higher rate
    low = 0.0
    if len(strict):
        hits = int((members > falling[strict[-1]]).sum())
        low = float(bounds.lower(hits, m, TAIL))
    loose = np.nonzero(binom.sf(counts, n, fpr) <= TAIL)[0]  # P(more than `counts` false positives)
    high = 1.0
    if len(loose):
        hits = int((members >= falling[loose[0]]).sum())
        high = float(bounds.upper(hits, m, TAIL))
    return Estimate(value, min(low, value), max(high, value))


def fewest_others(fpr: float) -> int:
    """Non-members below which the interval of `tpr_at` starts at 0 whatever the attack."""
    return math.ceil(math.log(TAIL) / math.log1p(-fpr))


def best_threshold(members: Scores, others: Scores) -> float:
    """The threshold of the highest balanced accuracy: members are those above it; between two scores where there are two."""
    values = np.unique(np.concatenate([members, others]))
    places = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    above = len(members) - np.searchsorted(np.sort(members), places, side="right")
    below = np.searchsorted(np.sort(others), places, side="right")
    return float(places[int(np.argmax(above / len(members) + below / len(others)))])


def balanced(members: Scores, others: Scores, threshold: float) -> Estimate:
    """The mean of true-positive and true-negative rate; the interval joins the two exact ones (Zou and Donner, 2008)."""
    hits, passed, m, n = int((members > threshold).sum()), int((others <= threshold).sum()), len(members), len(others)
    first, second = hits / m, passed / n
    value = (first + second) / 2
    (low1, high1), (low2, high2) = (bounds.two_sided(k, size, 0.05) for k, size in ((hits, m), (passed, n)))
    down = math.hypot(first - float(low1), second - float(low2)) / 2
    up = math.hypot(float(high1) - first, float(high2) - second) / 2
    return Estimate(value, max(0.0, value - down), min(1.0, value + up))
