"""Centre smoothing: maps whose worst change is known, the quantile and its rank by hand, answers far apart."""

import math

import pytest
import torch
from scipy.stats import binom, binomtest, ncx2, norm
from torch import Tensor
from toys_certify import Mix, grey

from robustrestore import certify

SIGMA = 0.05
GAUSS = certify.Gaussian(SIGMA)
EPS = [0.0, 0.0125, 0.025, 0.05]


def identity(images: Tensor) -> Tensor:
    return images


def test_12_centre_bounds_the_worst_change_of_a_linear_map() -> None:
    image, model = grey(4), Mix(4)
    smoothed = certify.CentreSmoothing(model, GAUSS)
    (found,) = smoothed.certify(image, EPS, n0=2000, n=4000)
    assert found.centre is not None
    worst = float(torch.linalg.matrix_norm(model.weight.detach(), 2)) / 4  # of the RMSE over 16 values, per unit of eps
    assert all(bound >= eps * worst for eps, bound in found.eps_out.items())
    assert list(found.eps_out.values()) == sorted(found.eps_out.values())
    vector = torch.linalg.svd(model.weight.detach()).Vh[0].view(1, 1, 4, 4)
    for eps in EPS[1:]:
        (there,) = smoothed.predict(image + eps * vector, seed=3)
        assert there is not None
        assert float((there - found.centre).square().mean().sqrt()) <= found.eps_out[eps]
        assert found.psnr_low(model(image)[0].detach(), eps) <= 10 * math.log10(
            1 / float((there - model(image)[0].detach()).square().mean())
        )


def test_12_centre_abstains_where_draws_are_too_few_or_eps_too_large() -> None:
    """The published bounds need 1199 draws to answer at all; the exact ones some 800."""
    smoothed = certify.CentreSmoothing(Mix(4), GAUSS)
    assert smoothed.predict(grey(4), n0=400, seed=0) == [None]
    assert smoothed.predict(grey(4), n0=1198, seed=0)[0] is not None
    (found,) = smoothed.certify(grey(4), [1.45 * SIGMA, 2.6 * SIGMA], n0=2000, n=1000)
    assert found.eps_out[1.45 * SIGMA] is not None
    assert found.eps_out[2.6 * SIGMA] is None
    assert "No promise" in found.statement(2.6 * SIGMA)


def test_12_centre_is_within_twice_the_smallest_ball_as_often_as_it_says() -> None:
    """Answers at a second image stay within the bound; with alpha 0.2 no more than a fifth may not, and none does here."""
    jump = torch.zeros(1, 1, 2, 2)

    def model(images: Tensor) -> Tensor:  # two modes: half of the outputs far away
        return torch.where(images[:, :1, :1, :1] > 0.5, torch.ones(()), 0.2 * images)

    smoothed, wrong = certify.CentreSmoothing(model, certify.Gaussian(0.1), candidates=10), 0
    for seed in range(12):
        (found,) = smoothed.certify(jump + 0.45, [0.05], n0=600, n=500, alpha=0.2, seed=seed)
        (there,) = smoothed.predict(jump + 0.475, n0=600, alpha=0.2, seed=100 + seed)
        bound = found.eps_out[0.05]
        if there is not None and found.centre is not None and bound is not None:
            wrong += float((there - found.centre).square().mean().sqrt()) > bound
    assert wrong == 0


def test_12_centre_is_three_times_the_quantile_of_fresh_draws() -> None:
    """By hand from what the model was shown: the last `n` draws, the share with delta in it, the rank by the binomial law."""
    seen: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        seen.append(images.clone())
        return images

    n, alpha, delta, eps = 1000, 0.01, 0.05, [0.0, 0.02, 0.05]
    (found,) = certify.CentreSmoothing(model, GAUSS, delta=delta).certify(grey(4), eps, n0=2000, n=n, alpha=alpha)
    draws = torch.cat(seen)
    assert len(draws) == 30 + 2000 + 2000 + n
    assert any(torch.equal(found.centre, draw) for draw in draws[:30])
    far = (draws[-n:] - found.centre).double().square().mean(dim=(1, 2, 3)).sqrt().sort().values
    for size in eps:
        share = norm.cdf(norm.ppf(0.5 + delta) + size / SIGMA)
        rank = next(r for r in range(1, n + 1) if binom.sf(r - 1, n, share) <= alpha / 2)  # the quantile is above it as rarely
        assert found.eps_out[size] == pytest.approx(3 * float(far[rank - 1]))


def test_12_the_radius_holds_its_share_but_for_half_of_alpha() -> None:
    """Of the identity the share is known, a chi law around the centre: the bound of `n` draws misses it that rarely."""
    image, sigma, eps, alpha, runs, wrong = torch.full((1, 1, 2, 2), 0.5), 0.1, 0.03, 0.4, 120, 0
    smoothed = certify.CentreSmoothing(identity, certify.Gaussian(sigma), candidates=10, chunk=200)
    share, answered = norm.cdf(norm.ppf(0.55) + eps / sigma), 0
    for seed in range(runs):
        (found,) = smoothed.certify(image, [eps], n0=600, n=80, alpha=alpha, seed=seed)
        if found.centre is None:  # it may abstain, and then promises nothing
            continue
        off = float((found.centre.double() - 0.5).square().sum())
        true = sigma / 2 * math.sqrt(ncx2.ppf(share, 4, off / sigma**2))
        answered += 1
        wrong += found.eps_out[eps] / 3 < true
    assert answered > runs / 2
    assert binomtest(wrong, answered, alpha / 2, alternative="greater").pvalue > 1e-3
    assert wrong > answered * alpha / 10  # and near alpha / 2, so that more would show


def test_centre_of_outputs_beyond_the_range_promises_no_psnr_that_it_has_not() -> None:
    """Outputs are not cut to [0, 1] here, so an error may be above 1 and the PSNR below 0 dB."""
    (found,) = certify.CentreSmoothing(lambda x: 6 * x, GAUSS).certify(torch.full((1, 1, 4, 4), 0.5), [0.01], n0=2000, n=2000)
    floor = found.psnr_low(torch.zeros(1, 4, 4), 0.01)
    assert floor is not None
    assert floor <= 10 * math.log10(1 / 9.0)

    def largest(outputs: Tensor, other: Tensor) -> Tensor:
        return (outputs - other).abs().flatten(1).amax(1)

    (other,) = certify.CentreSmoothing(identity, GAUSS, largest).certify(grey(4), [0.01], n0=1200, n=1000)
    with pytest.raises(TypeError, match=r"expected certify.centre.rmse for a PSNR, got .*largest"):
        other.psnr_low(grey(4)[0], 0.01)
    assert "asked with alpha 0.01 at an image" in other.statement(0.01)


def test_centre_asked_under_one_seed_sees_other_draws() -> None:
    seen: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        seen.append(images.clone())
        return images

    smoothed = certify.CentreSmoothing(model, GAUSS)
    smoothed.certify(grey(4), [0.01], n0=1200, n=100, seed=0)
    smoothed.predict(grey(4), n0=1200, seed=0)
    draws = torch.cat(seen).flatten(1)
    assert len(draws.unique(dim=0)) == len(draws)
