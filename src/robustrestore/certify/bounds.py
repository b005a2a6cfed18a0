"""Confidence bounds of certificates, exact or conservative, in float64: proportions, many tests at once, ranks, means."""

import math
from collections.abc import Callable
from decimal import ROUND_FLOOR, Context

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Correction = Callable[[ArrayLike, float], NDArray[np.bool_]]
"""`(p-values, alpha) -> which hypotheses are rejected`, wrong anywhere with probability at most alpha."""


def _counts(k: ArrayLike, n: int, alpha: float) -> Array:
    found = np.asarray(k, dtype=np.float64)
    if n < 1 or not bool(((found >= 0) & (found <= n)).all()):
        raise ValueError(f"k, n: expected counts from 0 to n >= 1, got counts up to {np.max(found, initial=0):g} of {n}")
    check_alpha(alpha)
    return found


def check_alpha(alpha: float, name: str = "alpha") -> None:
    """Raise unless `alpha` is a probability of error inside (0, 1)."""
    if not 0 < alpha < 1:
        raise ValueError(f"{name}: expected a probability in (0, 1), got {alpha}")


def check_counts(least: int = 1, **counts: int) -> None:
    """Raise unless each is a whole number, `least` or more."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name}: expected a whole number >= {least}, got {value!r}")


def lower(k: ArrayLike, n: int, alpha: float) -> Array:
    """One-sided lower bound of a probability seen `k` of `n` times (Clopper and Pearson, 1934); 0 for k = 0."""
    from scipy.stats import beta

    k = _counts(k, n, alpha)
    with np.errstate(invalid="ignore"):
        return np.where(k == 0, 0.0, beta.ppf(alpha, np.maximum(k, 1), n - k + 1))


def upper(k: ArrayLike, n: int, alpha: float) -> Array:
    """One-sided upper bound; 1 for k = n."""
    k = _counts(k, n, alpha)
    return 1.0 - lower(n - k, n, alpha)


def two_sided(k: ArrayLike, n: int, alpha: float) -> tuple[Array, Array]:
    """Both bounds, alpha / 2 each."""
    return lower(k, n, alpha / 2), upper(k, n, alpha / 2)


def at_least(k: ArrayLike, n: int, tau: float) -> Array:
    """The p-value of "the probability is at most tau" for a count of `k` or more: P(Bin(n, tau) >= k)."""
    from scipy.stats import binom

    return np.asarray(binom.sf(np.asarray(k) - 1, n, tau), dtype=np.float64)


def fewest(n: int, tau: float, alpha: float) -> int:
    """The least count of `n` whose p-value is at most `alpha`; n + 1 if even n is not enough."""
    values = at_least(np.arange(n + 1), n, tau)
    passed = np.nonzero(values <= alpha)[0]
    return int(passed[0]) if len(passed) else n + 1


def fewest_samples(tau: float, alpha: float) -> int:
    """The least n with which a count of n of n has a p-value of at most `alpha`."""
    check_alpha(alpha)
    check_alpha(tau, "tau")
    guess = max(1, math.floor(math.log(alpha) / math.log(tau)) - 1)  # logarithms round
    return next(n for n in range(guess, guess + 4) if tau**n <= alpha * (1 + 1e-12))


def holm(p_values: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Which hypotheses Holm (1979) rejects: wrong anywhere with probability at most alpha, whatever the dependence."""
    flat = np.asarray(p_values, dtype=np.float64).ravel()
    check_alpha(alpha)
    order = np.argsort(flat, kind="stable")
    passed = flat[order] <= alpha / np.arange(len(flat), 0, -1)
    stop = len(flat) if passed.all() else int(np.argmin(passed))
    rejected = np.zeros(len(flat), dtype=bool)
    rejected[order[:stop]] = True
    return rejected.reshape(np.shape(p_values))


def bonferroni(p_values: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Which hypotheses are rejected at alpha over their number."""
    found = np.asarray(p_values, dtype=np.float64)
    check_alpha(alpha)
    return found <= alpha / max(1, found.size)


def ranks(n: int, low: float, high: float, alpha: float) -> tuple[int, int]:
    """Ranks, from 1, of the order statistics that bound the quantiles `low` and `high`; wrong with at most alpha each.

    With n draws, the first is no more than the `low` quantile, the second no less than the `high` one. 0 and n + 1 stand for
    "no draw: the limit of the range".
    """
    from scipy.stats import binom

    check_alpha(alpha)
    return int(binom.ppf(alpha, n, low)), int(binom.isf(alpha, n, high)) + 1


def hoeffding(n: int, alpha: float) -> float:
    """How far the mean of `n` values in [0, 1] may lie on one side of its expectation (Hoeffding, 1963)."""
    check_alpha(alpha)
    return math.sqrt(math.log(1 / alpha) / (2 * n))


def bernstein(variance: Array, n: int, alpha: float) -> tuple[Array, Array]:
    """(half-width of an interval of the mean, upper bound of the standard deviation), both at once, for values in [0, 1].

    `variance`: of the sample, unbiased. The bound of the deviation is that of Maurer and Pontil (2009, theorem 10), the
    interval Bernstein's inequality with it: three events, alpha / 3 each.
    """
    check_alpha(alpha)
    if n < 2:
        raise ValueError(f"n: expected at least 2 values, got {n}")
    t = math.log(3 / alpha)
    deviation = np.minimum(np.sqrt(variance) + math.sqrt(2 * t / (n - 1)), 0.5)
    return deviation * math.sqrt(2 * t / n) + t / (3 * n), deviation


def written(value: float) -> str:
    """The shortest text that reads as the same number: rounded, it would state more than is proven."""
    return repr(float(value)).removesuffix(".0")


def below(value: float) -> str:
    """Six digits of a number, rounded down: a radius is never told larger than it is."""
    if not math.isfinite(value):
        return str(value)
    return f"{Context(prec=6, rounding=ROUND_FLOOR).create_decimal(value).normalize():f}"
