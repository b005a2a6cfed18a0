"""Confidence bounds: equal to SciPy's, kept over many trials."""

import numpy as np
import pytest
from scipy import stats

from robustrestore.certify import bounds


@pytest.mark.parametrize("n", [1, 7, 100, 1000])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_01_clopper_pearson_is_that_of_scipy(n: int, alpha: float) -> None:
    for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        greater = stats.binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, method="exact")
        less = stats.binomtest(k, n, alternative="less").proportion_ci(1 - alpha, method="exact")
        assert float(bounds.lower(k, n, alpha)) == pytest.approx(greater.low, abs=1e-12)
        assert float(bounds.upper(k, n, alpha)) == pytest.approx(less.high, abs=1e-12)
        both = stats.binomtest(k, n).proportion_ci(1 - alpha, method="exact")
        assert [float(b) for b in bounds.two_sided(k, n, alpha)] == pytest.approx([both.low, both.high], abs=1e-12)


@pytest.mark.parametrize("p", [0.5, 0.6, 0.9, 0.999])
def test_01_clopper_pearson_is_wrong_no_more_often_than_alpha(p: float) -> None:
    trials, n, alpha = 200_000, 1000, 0.001
    k = np.random.default_rng(0).binomial(n, p, trials)
    wrong = int((bounds.lower(k, n, alpha) > p).sum())
    assert stats.binomtest(wrong, trials, alpha, alternative="greater").pvalue > 1e-3
    wrong = int((bounds.upper(k, n, alpha) < p).sum())
    assert stats.binomtest(wrong, trials, alpha, alternative="greater").pvalue > 1e-3


def test_bound_itself_passes_the_test_that_it_inverts() -> None:
    for n in (100, 10_000):
        k = np.arange(1, n + 1)
        np.testing.assert_allclose(stats.binom.sf(k - 1, n, bounds.lower(k, n, 0.001)), 0.001, rtol=1e-6)


def test_03_least_counts() -> None:
    assert [bounds.fewest(n, 0.5, 0.001) for n in (100, 1000, 10_000)] == [66, 550, 5156]
    assert bounds.lower(66, 100, 0.001) > 0.5 > bounds.lower(65, 100, 0.001)


@pytest.mark.parametrize(
    ("pixels", "expected"), [(784, [48, 84, 265, 1351]), (128**2, [58, 103, 324, 1653]), (1024 * 2048, [75, 133, 419, 2136])]
)
def test_09_least_numbers_of_draws(pixels: int, expected: list[int]) -> None:
    assert [bounds.fewest_samples(tau, 0.001 / pixels) for tau in (0.75, 0.85, 0.95, 0.99)] == expected


def _holm_by_hand(values: list[float], alpha: float) -> list[bool]:
    rejected, left = [False] * len(values), list(range(len(values)))
    while left:
        best = min(left, key=lambda i: values[i])
        if values[best] > alpha / len(left):
            break
        rejected[best] = True
        left.remove(best)
    return rejected


def test_09_holm_is_the_step_down_test_and_beats_bonferroni() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        values = np.round(rng.beta(0.3, 3, rng.integers(1, 30)), 3)
        holm = bounds.holm(values, 0.05)
        assert holm.tolist() == _holm_by_hand(values.tolist(), 0.05)
        assert (holm | ~bounds.bonferroni(values, 0.05)).all()


def test_09_family_wise_error_under_dependence() -> None:
    """All null: p-values of 50 tests that share their noise; wrong anywhere at most alpha."""
    rng, wrong, trials, alpha = np.random.default_rng(3), 0, 4000, 0.05
    for _ in range(trials):
        shared = rng.random((60, 1)) if rng.random() < 0.5 else rng.random((60, 50))
        k = (shared < 0.75).sum(0) * np.ones(50, dtype=int)
        wrong += bool(bounds.holm(bounds.at_least(k, 60, 0.75), alpha).any())
    assert stats.binomtest(wrong, trials, alpha, alternative="greater").pvalue > 1e-3


def test_ranks_are_those_of_the_facts_and_cover() -> None:
    low, high = stats.norm.cdf([-0.5, 0.5])
    assert bounds.ranks(1000, low, high, 0.001 / 2) == (261, 740)
    assert bounds.ranks(1000, low, high, 0.001 / (2 * 784)) == (239, 762)
    assert bounds.ranks(200, *stats.norm.cdf([-1.5, 1.5]), 0.001 / (2 * 784)) == (0, 201)
    rng, n, alpha, trials = np.random.default_rng(4), 300, 0.01, 20_000
    r, u = bounds.ranks(n, low, high, alpha)
    draws = np.sort(rng.standard_normal((trials, n)), axis=1)
    for wrong in (int((draws[:, r - 1] > -0.5).sum()), int((draws[:, u - 1] < 0.5).sum())):
        assert stats.binomtest(wrong, trials, alpha, alternative="greater").pvalue > 1e-3


@pytest.mark.parametrize("values", [(0.5, 0.5), (0.05, 0.02), (20, 3)])
def test_bernstein_and_hoeffding_cover(values: tuple[float, float]) -> None:
    rng, n, alpha, trials = np.random.default_rng(5), 100, 0.05, 5000
    draws = rng.beta(*values, (trials, n))
    mean, deviation = values[0] / sum(values), stats.beta(*values).std()
    width, most = bounds.bernstein(draws.var(1, ddof=1), n, alpha)
    wrong = (np.abs(draws.mean(1) - mean) > width) | (most < deviation)
    assert wrong.mean() <= alpha
    assert (draws.mean(1) - mean > bounds.hoeffding(n, alpha)).mean() <= alpha


def test_wrong_arguments_say_what_is_expected() -> None:
    with pytest.raises(ValueError, match="from 0 to n"):
        bounds.lower(11, 10, 0.05)
    with pytest.raises(ValueError, match="alpha"):
        bounds.lower(1, 10, 0)


@pytest.mark.parametrize("tau", [0.3, 0.5, 0.75, 0.9])
def test_fewest_samples_at_exact_powers(tau: float) -> None:
    """Where logarithms round: a count of m of m has a p-value of tau ** m, no more and no less."""
    assert [bounds.fewest_samples(tau, tau**m) for m in (1, 2, 7, 10, 48)] == [1, 2, 7, 10, 48]
    with pytest.raises(ValueError, match="alpha"):
        bounds.fewest_samples(tau, 0)


def test_a_radius_is_told_rounded_down() -> None:
    from robustrestore.certify.bounds import below

    assert [below(v) for v in (0.5, 0.12345678, 1.0, 2.9999999, 1234567.0)] == ["0.5", "0.123456", "1", "2.99999", "1234560"]
    assert below(float("inf")) == "inf"
