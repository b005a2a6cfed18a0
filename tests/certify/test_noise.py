"""Radii that are known, draws that follow their density, grids that floating point cannot see through."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from robustrestore import certify

IID = {
    "gaussian": (certify.Gaussian(0.25), stats.norm(scale=0.25)),
    "laplace": (certify.Laplace(0.3), stats.laplace(scale=0.3)),
    "uniform": (certify.Uniform(0.4), stats.uniform(-0.4, 0.8)),
    "normal of shape 1": (certify.GeneralisedNormal(0.3, 1), stats.laplace(scale=0.3)),
    "normal of shape 3": (certify.GeneralisedNormal(0.5, 3), stats.gennorm(3, scale=0.5)),
    "sech": (certify.HyperbolicSecant(0.2), stats.hypsecant(scale=0.2)),
}


def like(count: int = 200, value: float = 0.0) -> Tensor:
    return torch.full((count, 3, 10, 10), value)


@pytest.mark.parametrize("name", IID)
def test_draws_follow_the_density(name: str) -> None:
    noise, true = IID[name]
    found = noise.sample_like(like(), torch.Generator().manual_seed(0)).flatten().double().numpy()
    assert stats.kstest(found, true.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02


@pytest.mark.parametrize("name", IID)
def test_02_l1_radius_is_the_quantile(name: str) -> None:
    noise, true = IID[name]
    p = np.array([0.5, 0.6, 0.9, 0.999])
    np.testing.assert_allclose(noise.radius(p, "l1", 3072), np.maximum(true.ppf(p), 0), atol=1e-9)
    assert noise.tightness("l1") == "exact"


def test_normal_of_shape_2_is_gaussian_in_l1_and_no_more_elsewhere() -> None:
    same, gauss = certify.GeneralisedNormal(math.sqrt(2) * 0.25, 2), certify.Gaussian(0.25)
    for norm in certify.NORMS:
        assert same.radius(0.9, norm, 100) <= gauss.radius(0.9, norm, 100) + 1e-12
    assert same.radius(0.9, "l1", 100) == pytest.approx(float(gauss.radius(0.9, "l1", 100)))


def test_03_radius_rises_is_0_at_one_half_and_scales() -> None:
    p = np.linspace(0, 1, 201)[:-1]
    for noise, _ in IID.values():
        for norm in certify.NORMS:
            radius = noise.radius(p, norm, 3072)
            assert (radius[p <= 0.5] == 0).all()
            assert (np.diff(radius[p >= 0.5]) > 0).all()
    for norm in certify.NORMS:
        twice = 2 * certify.Gaussian(0.25).radius(0.9, norm, 12)
        assert certify.Gaussian(0.5).radius(0.9, norm, 12) == pytest.approx(float(twice))


def test_03_ceilings_of_the_gaussian() -> None:
    from robustrestore.certify import bounds

    found = [float(certify.Gaussian(1).radius(bounds.lower(n, n, 0.001), "l2", 3072)) for n in (100, 1000, 10**4, 10**5)]
    assert np.round(found, 2).tolist() == [1.50, 2.46, 3.20, 3.81]


def test_07_l2_to_linf() -> None:
    noise = certify.Gaussian(0.25)
    assert noise.radius(0.99, "linf", 3072) == pytest.approx(0.58158697 / math.sqrt(3072))
    assert {noise.tightness(norm) for norm in certify.NORMS} == {"exact"}


def test_uniform_linf_is_that_of_the_worst_shift() -> None:
    """All values moved by R: the shifted cubes share (1 - R / 2L)^d, and exactly p - 1/2 is lost."""
    radius, dims = float(certify.Uniform(0.4).radius(0.8, "linf", 7)), 7
    assert 1 - (1 - radius / 0.8) ** dims == pytest.approx(0.3)


def test_08_laplace_l2_along_an_axis_is_no_radius() -> None:
    """The trap of a swarm search that starts at the axes: the dense direction loses the class much earlier (density ratio)."""
    scale, dims, p = math.sqrt(0.5), 3072, 0.9
    noise = certify.Laplace(scale)
    axis = float(noise.radius(p, "l1", dims))  # exact along an axis, where l1 and l2 agree
    assert axis == pytest.approx(1.138, abs=1e-3)
    rng = np.random.default_rng(0)
    draws = rng.laplace(scale=scale, size=(3000, dims)).astype(np.float32)

    def log_ratio(at: np.ndarray, step: float) -> np.ndarray:  # of the shifted density over the centred one
        return ((np.abs(at) - np.abs(at - step)).sum(1)) / scale

    step = axis / math.sqrt(dims)  # the dense direction, at the axis' l2 length
    limit = np.quantile(log_ratio(draws, step), p)
    kept = (log_ratio(draws + np.float32(step), step) <= limit).mean()  # the worst event of probability p, after the shift
    assert kept < 0.45  # below one half: the class is lost inside the "radius"
    assert float(noise.radius(p, "l2", dims)) < 0.906
    assert noise.tightness("l2") == "floor"
    assert float(noise.radius(p, "l2", dims)) == pytest.approx(axis / math.sqrt(dims))


def test_noises_without_a_sound_radius_are_refused() -> None:
    with pytest.raises(ValueError, match="log-concave"):
        certify.GeneralisedNormal(0.3, 0.5)
    with pytest.raises(ValueError, match="above 0"):
        certify.Gaussian(0)
    with pytest.raises(ValueError, match="l1, l2, linf"):
        certify.Gaussian(1).radius(0.9, "l3", 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        certify.Gaussian(1).radius(1.5, "l2", 4)


@pytest.mark.parametrize("noise", [certify.SSN(0.3), certify.SSN(0.8), certify.DSSN(0.3)], ids=repr)
def test_splitting_tells_two_values_apart_as_often_as_they_differ(noise: certify.Noise) -> None:
    own, x, y = torch.Generator().manual_seed(0), 40 / 255, 71 / 255
    offsets = noise.sample_like(torch.zeros(60_000, 1, 1, 1), own)
    apart = noise.applied(torch.full_like(offsets, x).float(), offsets) != noise.applied(
        torch.full_like(offsets, y).float(), offsets
    )
    spread = float(noise.settings()["spread"])
    assert float(apart.double().mean()) == pytest.approx((y - x) / (2 * spread), abs=0.01)


def test_dssn_draws_each_offset_once_and_refuses_other_images() -> None:
    noise = certify.DSSN(0.25, seed=3)
    count = noise.count
    assert count == 128
    offsets = noise.nth(torch.zeros(count, 1, 2, 2), torch.arange(count))
    for pixel in offsets.flatten(1).T:
        assert torch.equal((pixel * 255).sort().values, torch.arange(count) + 0.5)
    with pytest.raises(ValueError, match="k / 255"):
        noise.check(torch.full((1, 1, 2, 2), 0.3))


class _Bits(nn.Module):
    """Class 0 where a small value has bits that image + noise cannot have unless the image is 0: floating point told it."""

    def forward(self, images: Tensor) -> Tensor:
        fine = images.double() * 2.0**32
        told = ((images.abs() < 2.0**-9) & (fine != fine.round())).flatten(1).any(1)
        return torch.stack([told, ~told], dim=1).float()


def test_floating_point_breaks_a_certificate_and_whole_numbers_do_not() -> None:
    """The attack of Voracek and Hein (2023), in small: the plain certificate is false at a distance of 10/255."""
    image, other = torch.zeros(1, 1, 10, 10), torch.full((1, 1, 10, 10), 1 / 255)
    plain, sound = certify.Gaussian(0.02), certify.Gridded(certify.Gaussian(0.02))
    (broken,) = certify.SmoothedClassifier(_Bits(), plain).certify(image, n0=100, n=1000)
    (answer,) = certify.SmoothedClassifier(_Bits(), plain).predict(other, n=1000)
    assert broken.prediction == 0
    assert broken.radius["l2"] > float((other - image).norm())
    assert answer.prediction == 1
    (kept,) = certify.SmoothedClassifier(_Bits(), sound).certify(image, n0=100, n=1000)
    (answer,) = certify.SmoothedClassifier(_Bits(), sound).predict(other, n=1000)
    assert kept.prediction == answer.prediction == 1


def test_slack_is_taken_off_at_both_ends() -> None:
    """Draws that miss a share d: p - d at the image and 1/2 + d at the other; the radius must not pass what is left between."""
    noise, dims = certify.Gridded(certify.Gaussian(0.25)), 3072
    noise._missed = 0.01 / dims  # a coarse sampler
    for p in (0.53, 0.7, 0.99):
        true = 0.25 * (stats.norm.ppf(p - 0.01) - stats.norm.ppf(0.51))
        assert 0 < float(noise.radius(p, "l2", dims)) <= true
    assert float(noise.radius(0.519, "l2", dims)) == 0


def test_splitting_radius_is_rounded_down() -> None:
    """So that "below the radius" never takes in the step at it."""
    p = np.array([0.6, 0.75, 0.9])
    assert bool((certify.DSSN(0.25).radius(p, "l1", 4) < 2 * certify.DSSN(0.25).spread * (p - 0.5)).all())


@pytest.mark.parametrize("inner", [certify.Gaussian(0.02), certify.Laplace(0.01), certify.HyperbolicSecant(0.01)], ids=repr)
def test_whole_numbers_follow_the_rounded_density(inner: certify.noise.Symmetric) -> None:
    noise = certify.Gridded(inner)
    found = noise.sample_like(like(400), torch.Generator().manual_seed(1)).flatten().numpy()
    steps = np.arange(-8, 9)
    tails = 2 * inner.tail((np.arange(0, 11) + 0.5) / 255)
    mass = np.array([1 - tails[0] if k == 0 else (tails[abs(k) - 1] - tails[abs(k)]) / 2 for k in steps])
    seen = np.array([(found == k).sum() for k in steps])
    outside = len(found) - seen.sum()
    assert stats.chisquare([*seen, outside], len(found) * np.array([*mass, 1 - mass.sum()])).pvalue > 1e-3
    assert 0 < noise.slack(3072) < 1e-6
    assert noise.slack(3072) == pytest.approx(2 * 3072 * noise._missed)  # at the image and at the other
    assert float(inner.radius(0.9, "l1", 3072)) - float(noise.radius(0.9, "l1", 3072)) == pytest.approx(0, abs=1e-7)


def test_gridded_sums_are_exact_and_other_images_refused() -> None:
    noise, images = certify.Gridded(certify.Gaussian(0.1)), torch.full((2, 1, 3, 3), 77 / 255)
    whole = noise.sample_like(images, torch.Generator().manual_seed(0))
    assert torch.equal((noise.applied(images, whole).double() * 255).round().long(), 77 + whole)
    with pytest.raises(ValueError, match="round them first"):
        noise.check(images + 1e-3)
    assert certify.Noise.of(noise.config()).config() == noise.config()
