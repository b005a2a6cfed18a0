"""ROC figures against Gaussians in closed form, brute force, and the coverage of their intervals."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from robustrestore.privacy import roc


def gaussians(shift: float, m: int, n: int, seed: int = 0) -> tuple[roc.Scores, roc.Scores]:
    draw = np.random.default_rng(seed)
    return draw.normal(shift, 1, m), draw.normal(0, 1, n)


def test_auc_is_that_of_all_pairs_ties_counted_half() -> None:
    draw = np.random.default_rng(1)
    members, others = draw.integers(0, 6, 40).astype(float), draw.integers(0, 4, 30).astype(float)
    above = members[:, None] > others[None]
    assert roc.auc(members, others).value == pytest.approx((above + 0.5 * (members[:, None] == others[None])).mean())


def test_gaussian_members_have_the_auc_and_tpr_of_theory() -> None:
    members, others = gaussians(1.0, 40_000, 40_000)
    assert roc.auc(members, others).value == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.005)
    for fpr, tolerance in ((0.01, 0.012), (0.001, 0.008)):
        found = roc.tpr_at(fpr, members, others)
        truth = norm.cdf(1 - norm.isf(fpr))
        assert found.value == pytest.approx(truth, abs=tolerance)
        assert found.low < truth < found.high
    best = roc.best_threshold(members, others)
    assert best == pytest.approx(0.5, abs=0.15)
    assert roc.balanced(members, others, 0.5).value == pytest.approx(norm.cdf(0.5), abs=0.005)


def covered(kind: str, repeats: int = 300) -> float:
    truth = {"auc": norm.cdf(1 / math.sqrt(2)), "tpr": norm.cdf(1 - norm.isf(0.05)), "balanced": norm.cdf(0.5)}[kind]
    hits = 0
    for seed in range(repeats):
        members, others = gaussians(1.0, 60, 150, seed)
        estimates = {
            "auc": lambda m=members, o=others: roc.auc(m, o),
            "tpr": lambda m=members, o=others: roc.tpr_at(0.05, m, o),
            "balanced": lambda m=members, o=others: roc.balanced(m, o, 0.5),
        }
        found = estimates[kind]()
        hits += found.low <= truth <= found.high
    return hits / repeats


@pytest.mark.parametrize("kind", ["auc", "tpr", "balanced"])
def test_intervals_hold_the_truth_as_often_as_they_say(kind: str) -> None:
    """95 % at least, up to what 300 repeats can tell."""
    share = covered(kind)
    assert binomtest(round(share * 300), 300, 0.95, alternative="less").pvalue > 0.001


def test_intervals_at_the_ends() -> None:
    members, others = np.arange(10.0, 20), np.arange(10.0)
    found = roc.auc(members, others)
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.6 < found.low < 0.95
    assert roc.tpr_at(0.1, members, others).value == 1.0
    assert roc.tpr_at(0.001, members, others).low == 0.0  # ten cannot speak for one in a thousand
    assert roc.balanced(members, others, 9.5).value == 1.0


def test_the_fewest_non_members_for_a_rate_are_those_whose_interval_can_leave_0() -> None:
    for fpr in (0.01, 0.05):
        wanted = roc.fewest_others(fpr)
        members = np.full(500, 9.0)
        assert roc.tpr_at(fpr, members, np.arange(wanted - 1) / wanted).low == 0.0
        assert roc.tpr_at(fpr, members, np.arange(wanted) / wanted).low > 0.9
    assert roc.fewest_others(0.001) == 4380


def test_a_binary_score_lets_through_no_more_than_allowed() -> None:
    members, others = np.repeat([1.0, 0.0], [90, 10]), np.repeat([1.0, 0.0], [50, 50])
    assert roc.tpr_at(0.01, members, others).value == 0.0  # half of the non-members share the members' score
    assert roc.auc(members, others).value == pytest.approx(0.7)
    assert roc.balanced(members, others, 0.5).value == pytest.approx(0.7)
