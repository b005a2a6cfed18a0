"""SegCertify on oracles whose error rates are set, and on a network under attack."""

import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from toys import PixelSegmenter, photos

import robustrestore as rr
from robustrestore import certify
from robustrestore.certify import bounds

GAUSS = certify.Gaussian(0.25)


class Errs:
    """An oracle whose pixels are wrong, each for itself, with probabilities of its own; the first class is right."""

    def __init__(self, errors: Tensor, seed: int = 0, classes: int = 2) -> None:
        self.errors, self.classes, self.own = errors, classes, torch.Generator().manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        wrong = torch.rand(len(images), *self.errors.shape, generator=self.own) < self.errors
        return torch.stack([~wrong, wrong, *([torch.zeros_like(wrong)] * (self.classes - 2))], dim=1).float()


@pytest.mark.parametrize(
    ("error", "holm", "bonferroni"),
    [(0.0, 1, 1), (0.02, 0.997, 0.991), (0.05, 0.980, 0.863), (0.06, 0.921, 0.741), (0.08, 0.586, 0.441), (0.1, 0.289, 0.204)],
)
def test_09_synthetic_table_of_segcertify(error: float, holm: float, bonferroni: float) -> None:
    """100 components, one with five times the error; n0 = n = 100, tau 0.75, alpha 0.001."""
    errors = torch.full((10, 10), error)
    errors[0, 0] = 5 * error
    smoothed = certify.SmoothedSegmenter(Errs(errors), GAUSS, chunk=200)
    found = smoothed.certify(torch.zeros(60, 1, 10, 10), n0=100, n=100)
    share = float(torch.stack([c.certified for c in found]).double().mean())
    assert share == pytest.approx(holm, abs=0.03)
    again = [bounds.bonferroni(bounds.at_least(c.counts.numpy(), 100, 0.75), 0.001).mean() for c in found]
    assert np.mean(again) == pytest.approx(bonferroni, abs=0.03)
    assert share >= np.mean(again)


def test_09_wrong_anywhere_no_more_often_than_alpha() -> None:
    """Every pixel at exactly tau: any certificate is a false one."""
    smoothed = certify.SmoothedSegmenter(Errs(torch.full((8, 8), 0.25)), GAUSS, chunk=200)
    found = smoothed.certify(torch.zeros(400, 1, 8, 8), n0=20, n=60, alpha=0.05)
    wrong = sum(bool(c.certified.any()) for c in found)
    assert stats.binomtest(wrong, 400, 0.05, alternative="greater").pvalue > 1e-3
    assert wrong > 0


def test_09_the_trap_of_counting_selection_draws_again() -> None:
    """Tested over n - n0 trials but counted over n, as published code did: false certificates far above alpha."""
    rng = np.random.default_rng(0)
    k = rng.binomial(110, 0.75, 20_000)
    assert (bounds.at_least(np.minimum(k, 100), 100, 0.75) <= 0.001).mean() > 0.05
    assert (bounds.at_least(rng.binomial(100, 0.75, 20_000), 100, 0.75) <= 0.001).mean() < 0.002


def test_10_one_bad_pixel_lowers_no_other() -> None:
    errors = torch.zeros(6, 6)
    errors[2, 3] = 0.5
    (found,) = certify.SmoothedSegmenter(Errs(errors), GAUSS).certify(torch.zeros(1, 1, 6, 6), n=200)
    assert int(found.certified.sum()) == 35
    assert found.labels[2, 3] == -1
    assert set(found.labels[found.certified].tolist()) == {0}
    assert found.radius["l2"] == pytest.approx(0.25 * 0.674490, abs=1e-5)
    assert "jointly for 35 of 36 pixels" in found.statement()
    assert "may abstain" in found.statement()
    (none,) = certify.SmoothedSegmenter(Errs(torch.full((6, 6), 0.5)), GAUSS).certify(torch.zeros(1, 1, 6, 6), n=200)
    assert none.statement().startswith("No promise in l2: 0 of 36 pixels")
    (grid,) = certify.SmoothedSegmenter(Errs(errors), certify.Gridded(GAUSS)).certify(torch.zeros(1, 1, 6, 6), n=200)
    assert "every 8-bit image at" in grid.statement()


class _Averaged(nn.Module):
    """The smoothed pixel segmenter with gradients, on fixed draws."""

    def __init__(self, model: nn.Module, sigma: float, shape: torch.Size) -> None:
        super().__init__()
        self.model = model
        self.noise = sigma * torch.randn(100, *shape, generator=torch.Generator().manual_seed(9))

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.model(x + self.noise).softmax(1).mean(0).log() for x in images])


def test_10_certified_pixels_hold_under_attack_and_at_random() -> None:
    sigma, image = 0.1, photos(1, 12, 12)
    model = PixelSegmenter()
    (found,) = certify.SmoothedSegmenter(model, certify.Gaussian(sigma)).certify(image, n=400)
    assert 0.1 < float(found.certified.double().mean()) < 1
    threat = rr.L2(found.radius["l2"])
    objective = rr.tasks.Segmentation().untargeted(found.candidates.long()[None])
    attacked = rr.attacks.PGD(threat, steps=10)(_Averaged(model, sigma, image.shape[1:]), image, objective)
    one = torch.zeros(1, 3, 12, 12)  # all of the budget on one pixel, the worst there is for a segmenter of single pixels
    worst = (found.counts.where(found.certified, torch.tensor(10**6)) == found.counts[found.certified].min()).nonzero()[0]
    sign = 1 - 2 * float(found.candidates[tuple(worst)])
    one[0, 0, worst[0], worst[1]], one[0, 1, worst[0], worst[1]] = -sign, sign
    one = image + one / one.norm() * found.radius["l2"]
    own = torch.Generator().manual_seed(3)
    for moved in (attacked, threat.random(image, own), one):
        noise = sigma * torch.randn(4000, 3, 12, 12, generator=own)
        share = (model(moved + noise).argmax(1) == found.candidates).double().mean(0)
        assert float(share[found.certified].min()) > 0.5 - 4 * np.sqrt(0.25 / 4000)


def test_chunks_and_seeds_leave_counts_alone(tmp_path: Path) -> None:
    image = photos(2, 12, 12)
    runs = [
        certify.SmoothedSegmenter(PixelSegmenter(), certify.Gaussian(0.1), chunk=c).certify(image, 20, 150, folder=folder)
        for c, folder in ((3, tmp_path), (64, tmp_path), (100, None), (None, None))
    ]
    for run in runs[1:]:
        for one, two in zip(runs[0], run, strict=True):
            assert torch.equal(one.counts, two.counts)
            assert torch.equal(one.candidates, two.candidates)


@pytest.mark.parametrize("chunk", [3, 8, 200])
def test_10_nothing_is_held_but_the_chunk_at_hand(chunk: int) -> None:
    """Memory is flat in n: of all noisy images and outputs ever made, those of the last chunk alone are alive."""
    made: list[weakref.ref[Tensor]] = []

    def model(images: Tensor) -> Tensor:
        outputs = PixelSegmenter()(images)
        made.extend([weakref.ref(images), weakref.ref(outputs)])
        assert sum(one() is not None for one in made) <= 4
        return outputs

    smoothed = certify.SmoothedSegmenter(model, certify.Gaussian(0.1), chunk=chunk)
    smoothed.certify(photos(1, 16, 16), 20, 600)
    assert len(made) > 6


def test_too_few_draws_warn() -> None:
    smoothed = certify.SmoothedSegmenter(Errs(torch.zeros(28, 28)), GAUSS)
    with pytest.warns(UserWarning, match="from n = 48"):
        smoothed.certify(torch.zeros(1, 1, 28, 28), n0=5, n=47)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = smoothed.certify(torch.zeros(1, 1, 28, 28), n0=5, n=48)
    assert bool(found.certified.all())


def test_hierarchy_gives_coarser_classes_where_the_model_wavers() -> None:
    errors = torch.zeros(4, 4)
    errors[:2] = 0.5  # half the pixels waver between classes 0 and 1
    tree = certify.Hierarchy([[[0, 1], [2, 3]], [[0, 1, 2, 3]]], [0.9, 0.01])

    class Soft(Errs):
        def __call__(self, images: Tensor) -> Tensor:
            hard = super().__call__(images)
            return torch.where(self.errors > 0, torch.log(0.01 + 0.6 * hard + 0.2), 20 * hard)

    (plain,) = certify.SmoothedSegmenter(Soft(errors, 1, 4), GAUSS).certify(torch.zeros(1, 1, 4, 4), n0=50, n=100)
    (found,) = certify.SmoothedSegmenter(Soft(errors, 1, 4), GAUSS, hierarchy=tree).certify(
        torch.zeros(1, 1, 4, 4), n0=50, n=100
    )
    assert plain.certified.sum() == 8
    assert bool(found.certified.all())
    assert set(found.labels[:2].flatten().tolist()) == {4}
    assert set(found.labels[2:].flatten().tolist()) == {0}
    assert tree.gains()[[0, 4, 6]].tolist() == pytest.approx([1, 0.5, 0])


def test_hierarchy_tests_fresh_draws_alone() -> None:
    """At exactly tau with 10 selection draws and 100 fresh ones, as published: false certificates stay at alpha."""
    tree = certify.Hierarchy([[[0, 1]]], [0.0])
    smoothed = certify.SmoothedSegmenter(Errs(torch.full((1, 1), 0.25)), GAUSS, hierarchy=tree, chunk=200)
    found = smoothed.certify(torch.zeros(1500, 1, 1, 1), n0=10, n=100, alpha=0.01, correction=bounds.bonferroni)
    wrong = sum(bool(c.certified.any()) for c in found)
    assert stats.binomtest(wrong, 1500, 0.01, alternative="greater").pvalue > 1e-3


def test_wrong_use_is_named() -> None:
    with pytest.raises(ValueError, match="tau"):
        certify.SmoothedSegmenter(PixelSegmenter(), GAUSS, tau=0.4)
    with pytest.raises(TypeError, match="SSN"):
        certify.SmoothedSegmenter(PixelSegmenter(), certify.DSSN(0.2))
    with pytest.raises(ValueError, match="each to hold the classes"):
        certify.Hierarchy([[[0, 1], [1]]], [0.5])
    with pytest.raises(ValueError, match="falling margin"):
        certify.Hierarchy([[[0, 1]]], [float("nan")])
    with pytest.raises(ValueError, match="n: expected a whole number"):
        certify.SmoothedSegmenter(PixelSegmenter(), GAUSS).certify(photos(1), n=1e3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 classes"):
        certify.SmoothedSegmenter(PixelSegmenter(), GAUSS, hierarchy=certify.Hierarchy([[[0, 1, 2]]], [0.5])).certify(photos(1))
