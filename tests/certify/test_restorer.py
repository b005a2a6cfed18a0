"""Certified images: maps whose worst change is known, restorers under attack, the size of the bounds."""

import math
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest, norm
from torch import Tensor, nn
from torch.nn import functional as F
from toys import photos
from toys_certify import Mix, grey

import robustrestore as rr
from robustrestore import certify

SIGMA = 0.05
GAUSS = certify.Gaussian(SIGMA)
EPS = [0.0, 0.0125, 0.025, 0.05]


def identity(images: Tensor) -> Tensor:
    return images


@pytest.mark.parametrize("way", ["median", "mean"])
def test_11_identity_moves_by_eps_and_the_interval_holds_it(way: str) -> None:
    image = grey()
    (found,) = getattr(certify.SmoothedRestorer(identity, GAUSS), way)(image, EPS, n=4000)
    for certificate in found:
        low, high = image[0] - certificate.low, certificate.high - image[0]
        assert float(torch.minimum(low, high).min()) >= certificate.eps - 1e-6  # each value alone may move by eps
        assert float((certificate.middle - image[0]).abs().max()) < 0.01
        if way == "median":
            assert float(torch.maximum(low, high).max()) < certificate.eps + 0.016


@pytest.mark.parametrize("way", ["median", "mean"])
def test_11_constant_map_does_not_move(way: str) -> None:
    (found,) = getattr(certify.SmoothedRestorer(lambda x: torch.full_like(x, 0.3), GAUSS), way)(grey(), [0.05], n=4000)
    width = float((found[0].high - found[0].low).max())
    assert width < (1e-3 if way == "median" else 0.25)
    assert float(found[0].low.min()) <= 0.3 <= float(found[0].high.max())


@pytest.mark.parametrize("way", ["median", "mean"])
def test_11_linear_map_stays_inside(way: str) -> None:
    image, model = grey(), Mix()
    (found,) = getattr(certify.SmoothedRestorer(model, GAUSS), way)(image, EPS, n=2000)
    true, worst = model(image)[0].detach(), model.weight.detach().norm(dim=1).view(1, 6, 6)
    for certificate in found:
        assert bool((certificate.low <= true - certificate.eps * worst + 1e-6).all())
        assert bool((certificate.high >= true + certificate.eps * worst - 1e-6).all())


def test_11_three_bounds_of_the_mean_at_a_known_variance() -> None:
    """With infinitely many draws: each bound holds for a linear value, and Cauchy-Schwarz is tight at a small eps."""
    from robustrestore.certify.restorer import _mean_bounds

    n, weight = 10**12, 0.2
    counted = {"mean": torch.tensor([0.5], dtype=torch.float64), "variance": torch.tensor([(weight * SIGMA) ** 2]).double()}
    for shift in (0.02, 0.1, 0.5, 1.0):
        _, low, high = _mean_bounds(counted, shift, n, 0.001)
        true = weight * SIGMA * shift
        assert float(high[0]) - 0.5 >= true
        assert 0.5 - float(low[0]) >= true
        if shift <= 0.1:
            assert float(high[0]) - 0.5 < 1.01 * true
        assert float(high[0]) <= norm.cdf(norm.ppf(0.5) + shift) + 1e-4
        assert float(high[0]) - 0.5 <= 2 * norm.cdf(shift / 2) - 1 + 1e-4


def test_median_intervals_are_the_order_statistics_rounded_outward() -> None:
    """Against sorted samples: the interval holds that of the exact ranks and is at most a bin wider on each side."""
    from robustrestore.certify import bounds

    seen: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        seen.append(images.clamp(0, 1).clone())
        return images

    image = torch.tensor([0.02, 0.3, 0.5, 0.97]).view(1, 1, 2, 2)
    (found,) = certify.SmoothedRestorer(model, GAUSS, chunk=50).median(image, [0.025], n=1000, pilot=50)
    samples = torch.cat(seen)[50:].sort(dim=0).values
    below, above = bounds.ranks(1000, norm.cdf(-0.5), norm.cdf(0.5), 0.001 / 8)
    low, high = samples[below - 1], samples[above - 1]
    width = 1.5 * (torch.cat(seen)[:50].amax(0) - torch.cat(seen)[:50].amin(0)) / 64 + 1e-3
    assert bool((found[0].low <= low).all() and (found[0].low >= low - width).all())
    assert bool((found[0].high >= high).all() and (found[0].high <= high + width).all())


class Edges(nn.Module):
    """A restorer with a sharp threshold, so that a small change does harm."""

    def forward(self, images: Tensor) -> Tensor:
        return 0.5 + 0.3 * torch.tanh(20 * (F.avg_pool2d(images, 3, 1, 1, count_include_pad=False) - 0.5))


class _Mean(nn.Module):
    """The smoothed restorer with gradients, on fixed draws."""

    def __init__(self, model: nn.Module, shape: torch.Size, draws: int = 200) -> None:
        super().__init__()
        self.model = model
        self.noise = SIGMA * torch.randn(draws, *shape, generator=torch.Generator().manual_seed(9))

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.model(x + self.noise).mean(0) for x in images])


@pytest.mark.parametrize("way", ["median", "mean"])
def test_13_certified_psnr_is_below_that_under_attack(way: str, tmp_path: Path) -> None:
    images, model = photos(3, 12, 12), Edges()
    target = model(images).detach()
    smoothed = certify.SmoothedRestorer(model, GAUSS)
    found = getattr(smoothed, way)(images, EPS, n=1000, folder=tmp_path)
    averaged, objective = _Mean(model, images.shape[1:]), rr.tasks.Restoration().untargeted(target)
    for k, eps in enumerate(EPS):
        attacked = rr.attacks.PGD(rr.L2(eps), steps=15)(averaged, images, objective)
        for number, image in enumerate(attacked):
            draws = model(image + SIGMA * torch.randn(4000, *image.shape, generator=torch.Generator().manual_seed(k)))
            shown = draws.median(0).values if way == "median" else draws.mean(0)
            empirical = 10 * math.log10(1 / float((shown - target[number]).square().mean()))
            assert found[number][k].psnr_low(target[number]) <= empirical
    for one in found:
        floors = [certificate.psnr_low(target[0]) for certificate in one]
        assert floors == sorted(floors, reverse=True)
    again = getattr(certify.SmoothedRestorer(model, GAUSS), way)(images, EPS, n=1000, folder=tmp_path)
    assert torch.equal(again[1][2].low, found[1][2].low)


@pytest.mark.parametrize("way", ["median", "mean"])
def test_13_all_values_at_once_are_wrong_no_more_often_than_alpha(way: str) -> None:
    """The identity in the middle of the range: the worst median and mean at eps are x -/+ eps, value by value."""
    alpha, runs, wrong = 0.2, 200, 0
    smoothed = certify.SmoothedRestorer(identity, GAUSS, chunk=100)
    image = torch.full((1, 1, 4, 4), 0.5)
    for seed in range(runs):
        (found,) = getattr(smoothed, way)(image, [0.025], n=100, alpha=alpha, seed=seed)
        wrong += bool((found[0].low > 0.475).any() or (found[0].high < 0.525).any())
    assert binomtest(wrong, runs, alpha, alternative="greater").pvalue > 1e-3
    if way == "median":
        assert wrong > 0  # and not far from alpha, so that the test can fail


def test_13_without_a_change_only_sampling_error_is_left() -> None:
    image = grey()
    wide = [certify.SmoothedRestorer(identity, GAUSS).median(image, [0.0], n=n)[0][0] for n in (200, 5000)]
    widths = [float((c.high - c.low).mean()) for c in wide]
    assert widths[1] < 0.4 * widths[0]
    assert widths[1] < 0.3 * SIGMA


def test_14_certified_psnr_above_that_of_the_noisy_input_where_smoothing_helps() -> None:
    target = torch.full((1, 1, 16, 16), 0.45)

    def flatten(images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)

    (found,) = certify.SmoothedRestorer(flatten, GAUSS).median(target, [0.05], n=1000)
    noisy = 10 * math.log10(1 / SIGMA**2)
    assert found[0].psnr_low(target[0]) > noisy + 5
    (plain,) = certify.SmoothedRestorer(identity, GAUSS).median(target, [0.05], n=1000)
    assert plain[0].psnr_low(target[0]) < noisy + 1  # the identity has nothing to promise


def test_counts_do_not_depend_on_the_chunk_and_wide_ranks_are_vacuous() -> None:
    image = grey()
    runs = [certify.SmoothedRestorer(Mix(), GAUSS, chunk=c).median(image, [0.025], n=300)[0][0] for c in (7, 100)]
    assert float((runs[0].low - runs[1].low).abs().max()) < 2e-3
    (found,) = certify.SmoothedRestorer(identity, GAUSS).median(image, [0.075], n=100)
    assert (float(found[0].low.max()), float(found[0].high.min())) == (0.0, 1.0)
    with pytest.raises(TypeError, match="Gaussian"):
        certify.SmoothedRestorer(identity, certify.Laplace(0.1))


@pytest.mark.parametrize("values", [1, 64])
def test_mean_shares_alpha_among_the_values(values: int) -> None:
    """Without a change of the image, the interval is Bernstein's at alpha over their number."""
    from robustrestore.certify import bounds
    from robustrestore.certify.restorer import _mean_bounds

    mean, variance = torch.linspace(0.4, 0.6, values).double(), torch.full((values,), 0.01).double()
    half, _ = bounds.bernstein(variance.numpy(), 1000, 0.001 / values)
    _, low, high = _mean_bounds({"mean": mean, "variance": variance}, 0.0, 1000, 0.001)
    assert torch.allclose(mean - low, torch.from_numpy(half))
    assert torch.allclose(high - mean, torch.from_numpy(half))


def test_counts_of_the_median_are_kept_in_16_bits_where_they_fit() -> None:
    smoothed = certify.SmoothedRestorer(identity, GAUSS, chunk=9)
    image = grey(3)
    own = torch.Generator().manual_seed(0)
    blocks = iter([image + SIGMA * torch.randn(k, 1, 3, 3, generator=own) for k in (20, 100)])
    counted = smoothed._histogram(blocks, 20, 100)
    assert counted["counts"].dtype == torch.int16
    assert set(counted["counts"].sum(0).flatten().tolist()) == {100}
    blocks = iter([image + SIGMA * torch.randn(k, 1, 3, 3, generator=own) for k in (20, 39_000)])
    assert smoothed._histogram(blocks, 20, 39_000)["counts"].dtype == torch.int32


def test_wrong_sizes_and_draws_are_named() -> None:
    smoothed, centre = certify.SmoothedRestorer(identity, GAUSS), certify.CentreSmoothing(identity, GAUSS)
    for ask in (smoothed.median, smoothed.mean, centre.certify):
        for wrong in (0.05, [], [math.nan], [-1.0], ["a"]):
            with pytest.raises(ValueError, match="eps: expected a list of L2 sizes"):
                ask(grey(), wrong)  # type: ignore[operator]
        with pytest.raises(ValueError, match="n: expected a whole number"):
            ask(grey(), [0.0], n=0)  # type: ignore[operator]
    for more in ({"n0": 0}, {"alpha": 0.0}, {"alpha": 1.5}):
        with pytest.raises(ValueError, match="n0|alpha"):
            centre.predict(grey(), **more)  # type: ignore[arg-type]
    (found,) = smoothed.median(grey(), [0.0], n=20)
    assert found[0] != smoothed.median(grey(), [0.0], n=20)[0][0]  # tensors have no one truth: compared by identity
