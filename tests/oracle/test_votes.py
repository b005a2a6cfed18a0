"""Votes: shares of noisy copies of a target whose answers under noise are known; what they cost; what they add to labels."""

from pathlib import Path

import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from toys import PixelSegmenter, photos
from toys_certify import Line, images_of

import robustrestore as rr
from robustrestore import oracle

NOISE = rr.certify.Gaussian(0.1)


def labels(images: Tensor) -> Tensor:
    """The line's answer alone, of images moved to the middle of [0, 1], so that no noisy copy is cut off."""
    return Line()(0.5 + 4 * (images - 0.5)).argmax(1)


def test_shares_are_the_probabilities_under_noise_and_each_copy_is_paid_once(tmp_path: Path) -> None:
    images = 0.5 + (images_of(12) - 0.5) / 8
    asked = oracle.Queried(labels, oracle.Labels(), tmp_path / "labels.db", budget=12 * 300)
    votes = oracle.Queried(oracle.Votes(asked, 2, NOISE, draws=300), oracle.Probabilities())
    shares = votes(images)
    line = Line()
    distance = line.score(0.5 + 4 * (images - 0.5)).detach().double() / (4 * float(line.weight.detach().norm()))
    exact = torch.from_numpy(norm.cdf(distance.numpy() / 0.1))
    assert torch.allclose(shares[:, 0].double(), exact, atol=4 * 0.5 / 300**0.5)
    assert float(shares.std()) > 0.1
    assert (asked.sent, asked.answered, votes.sent, votes.answered) == (3600, 3600, 12, 12)
    again = oracle.Queried(oracle.Votes(asked, 2, NOISE, draws=300), oracle.Probabilities())
    assert torch.equal(again(images), shares)  # the same copies, none sent again: the budget is spent
    with pytest.raises(oracle.OverBudget):
        oracle.Queried(oracle.Votes(asked, 2, NOISE, draws=300, seed=1), oracle.Probabilities())(images)


def test_label_maps_have_a_share_a_pixel() -> None:
    images = photos(3)
    asked = oracle.Queried(lambda x: PixelSegmenter()(x).argmax(1), oracle.Labels())
    shares = oracle.Queried(oracle.Votes(asked, 2, rr.certify.Gaussian(0.01), draws=8), oracle.Probabilities())(images)
    assert shares.shape == (3, 2, 16, 20)
    clear = (images[:, 0] - images[:, 1]).abs() > 0.1
    assert torch.equal(shares.argmax(1)[clear], PixelSegmenter()(images).argmax(1)[clear])
    assert float(shares.max()) == pytest.approx(9 / 10)


def test_votes_tell_how_far_the_boundary_is_and_labels_do_not() -> None:
    """Log odds of shares of many copies go with the line's score; labels tell its sign alone."""
    images = 0.5 + (images_of(200) - 0.5) / 8
    asked = oracle.Queried(labels, oracle.Labels())
    votes = oracle.Queried(oracle.Votes(asked, 2, NOISE, draws=400), oracle.Probabilities())
    told = votes.tier.scores(votes(images))
    odds = (told[:, 0] - told[:, 1]).double()
    score = Line().score(0.5 + 4 * (images - 0.5)).detach().double()
    correlation = float(torch.corrcoef(torch.stack([odds, score]))[0, 1])
    hard = float(torch.corrcoef(torch.stack([score.sign(), score]))[0, 1])
    assert correlation > 0.97 > hard + 0.1


def test_votes_are_told_apart_and_checked() -> None:
    asked = oracle.Queried(labels, oracle.Labels())
    told = {
        oracle.Queried(oracle.Votes(asked, 2, NOISE, draws, seed), oracle.Probabilities()).told_apart_by()
        for draws, seed in ((5, 0), (6, 0), (5, 1))
    }
    assert len(told) == 3
    with pytest.raises(TypeError, match="oracle.Labels"):
        oracle.Votes(oracle.Queried(Line()), 2, NOISE)
    with pytest.raises(TypeError, match="certify.Gaussian"):
        oracle.Votes(asked, 2, 0.25)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="classes: expected a whole number >= 2"):
        oracle.Votes(asked, 1, NOISE)
    for wrong in ({"classes": 2.0}, {"classes": "3"}, {"draws": 2.5}, {"draws": True}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected a whole number >= "):
            oracle.Votes(asked, **{"classes": 2, "noise": NOISE, **wrong})  # type: ignore[arg-type]
    for seed in (None, 1.5, True):
        with pytest.raises(ValueError, match="seed: expected a whole number, so that the copies are the same"):
            oracle.Votes(asked, 2, NOISE, seed=seed)  # type: ignore[arg-type]
    few = oracle.Queried(lambda x: torch.full((len(x),), 4), oracle.Labels())
    with pytest.raises(ValueError, match="expected labels below 3, got 4"):
        oracle.Queried(oracle.Votes(few, 3, NOISE), oracle.Probabilities())(images_of(2))


def test_votes_are_probabilities_and_no_other_tier_takes_them() -> None:
    votes = oracle.Votes(oracle.Queried(labels, oracle.Labels()), 2, NOISE)
    for tier, got in ((None, "Logits"), (oracle.Labels(), "Labels")):
        with pytest.raises(TypeError, match=rf"expected oracle.Probabilities\(\), for that is what Votes tells, got {got}"):
            oracle.Queried(votes, tier)
    assert oracle.Queried(votes, oracle.Probabilities(floor=0.01))(images_of(2)).shape == (2, 2)


def test_a_recheck_goes_to_the_answers_beneath_and_finds_what_changed() -> None:
    flipped, images = [False], images_of(4)
    asked = oracle.Queried(lambda x: 1 - labels(x) if flipped[0] else labels(x), oracle.Labels())
    made = oracle.Votes(asked, 2, NOISE, draws=3)
    votes = oracle.Queried(made, oracle.Probabilities())
    votes(images)
    with pytest.raises(TypeError, match=r"got Votes, made of the kept answers.*asked.recheck\(votes.copies\(images\)\)"):
        votes.recheck(images)
    assert (asked.recheck(made.copies(images)), asked.sent) == ([], 24)
    flipped[0] = True
    with pytest.warns(UserWarning, match="12 answers of 12 changed"):
        assert len(asked.recheck(made.copies(images))) == 12
