"""Ensemble: the variance of a mean, seeds that no two runs share, exact gradients through every run."""

from collections.abc import Callable

import pytest
import torch
from toys import photos
from toys_diffusion import Convolved, GaussianPrior, Oracle

import robustrestore as rr
from robustrestore import diffusion, runs
from robustrestore.purifiers import Blur, Diffusion, Ensemble, Rounds


@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize("count", [2, 8])
def test_the_variance_is_that_of_a_mean(count: int, seed: int | None) -> None:
    images = torch.full((1, 3, 128, 128), 0.5)
    one = Diffusion(GaussianPrior(0.5, 0.1), sigma=0.1, steps=1, seed=seed)
    with rr.seeded(6):
        single, mean = one(images), Ensemble(one, count)(images)
    assert float(single.var()) == pytest.approx(0.25 * 0.01, rel=0.03)  # (v / (v + s^2) s)^2
    assert float(mean.var()) == pytest.approx(0.25 * 0.01 / count, rel=0.03)
    assert float(mean.mean()) == pytest.approx(0.5, abs=1e-3)


def test_it_is_the_mean_of_its_runs_which_longer_ones_go_on_from() -> None:
    images, denoiser = photos(3), Convolved()
    one = Diffusion(denoiser, sigma=0.1, steps=2, seed=5)
    seeds = [runs.spawn(5, f"run {k}") for k in range(3)]
    assert len({5, *seeds}) == 4
    each = [one.replace(seed=seed)(images) for seed in seeds]
    for count in (1, 2, 3):
        torch.testing.assert_close(Ensemble(one, count)(images), sum(each[:count]) / count)
    denoiser.calls = 0
    Ensemble(one, 7)(images)
    assert denoiser.calls == 14


def _random(oracle: Oracle) -> list[rr.Purifier]:
    one = Diffusion(oracle, sigma=0.1, steps=1, seed=1)
    return [one, Rounds(one, [[0.1, 1]] * 3), Ensemble(one, 3), Ensemble(Rounds(one, [[0.1, 1]] * 2), 2)]


@pytest.mark.parametrize("which", range(4))
def test_no_two_runs_share_noise_however_they_are_nested(which: int) -> None:
    images = photos(1, 64, 64)
    oracle = Oracle(images)
    Ensemble(_random(oracle)[which], 4)(images)
    drawn = torch.stack([(shown - images).flatten() for shown in oracle.shown])
    assert len(drawn) == 4 * (1, 3, 3, 4)[which]
    torch.testing.assert_close(torch.corrcoef(drawn), torch.eye(len(drawn)), atol=0.05, rtol=0)


def test_a_seed_makes_it_a_fixed_function_of_each_image() -> None:
    ensemble, images = Ensemble(Diffusion(GaussianPrior(), steps=2, sampler=diffusion.DDPM(), seed=5), 3), photos(4)
    first = ensemble(images)
    torch.manual_seed(99)
    assert torch.equal(ensemble(images), first)
    assert torch.equal(ensemble(images[2:3]), first[2:3])
    assert torch.equal(Ensemble(ensemble.purifier, 3)(images), first)


def test_without_a_seed_every_run_is_fresh() -> None:
    ensemble, images = Ensemble(Diffusion(GaussianPrior(), seed=None), 2), photos(1)
    assert ensemble.seed is None
    assert not torch.equal(ensemble(images), ensemble(images))
    with rr.seeded(1):
        told = ensemble(images)
    with rr.seeded(1):
        assert torch.equal(ensemble(images), told)


@pytest.mark.parametrize(
    "inner",
    [
        lambda net: Diffusion(net, sigma=0.05, steps=3, sampler=diffusion.DDPM(), seed=4),
        lambda net: Rounds(Diffusion(net, seed=4), [[0.02, 1], [0.05, 2]]),
    ],
    ids=["diffusion", "rounds"],
)
def test_the_gradient_is_the_mean_of_the_runs(inner: Callable[[diffusion.Denoiser], rr.Purifier]) -> None:
    own = torch.Generator().manual_seed(0)
    leaf = (0.3 + 0.4 * torch.rand(2, 1, 4, 3, generator=own, dtype=torch.float64)).requires_grad_()
    ensemble = Ensemble(inner(Convolved(1).double()), 3)
    assert torch.autograd.gradcheck(ensemble, leaf)


def test_checkpointed_members_give_the_plain_gradient() -> None:
    images, denoiser = photos().double(), Convolved().double()
    weight = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for checkpointed in (True, False):
        leaf = images.clone().requires_grad_()
        purifier = Diffusion(denoiser, sigma=0.2, steps=4, sampler=diffusion.DDPM(), seed=None, checkpointed=checkpointed)
        with rr.seeded(3):
            found.append(torch.autograd.grad((weight * Ensemble(purifier, 3)(leaf)).sum(), leaf)[0])
    assert float(found[0].abs().max()) > 0
    torch.testing.assert_close(*found, atol=1e-13, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    ensemble = Ensemble(Diffusion(GaussianPrior(), steps=1), 4)
    found = ensemble(photos().to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), ensemble(photos()), atol=0.01, rtol=0)


class _Shift(rr.Purifier):
    """A random purifier of someone else's, with a buffer of its own."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.register_buffer("scale", torch.tensor(0.1))

    def run(self, images: torch.Tensor) -> torch.Tensor:
        own = torch.Generator().manual_seed(self.seed)
        return images + self.scale.to(images.dtype) * torch.randn(1, generator=own).to(images)


def test_buffers_of_the_purifier_follow_into_the_runs() -> None:
    one, images = _Shift(), torch.full((1, 3, 4, 4), 0.5)
    ensemble = Ensemble(one, 3)
    before = ensemble(images)
    assert float((before - one(images)).abs().max()) > 1e-4
    ensemble.double()  # buffers are new now
    one.scale.zero_()
    assert torch.equal(ensemble(images), images)
    assert set(ensemble.state_dict()) == {"purifier.scale"}


def test_without_randomness_it_is_the_purifier() -> None:
    torch.testing.assert_close(Ensemble(Blur(), 3)(photos()), Blur()(photos()))


@pytest.mark.parametrize("count", [0, -1, 2.5, True])
def test_wrong_runs(count: object) -> None:
    with pytest.raises(ValueError, match=f"runs: expected a whole number >= 1, got {count}"):
        Ensemble(Blur(), count)


def test_wrong_kind_of_part() -> None:
    with pytest.raises(TypeError, match="purifier: expected a purifier such as purifiers.Diffusion, got GaussianPrior"):
        Ensemble(GaussianPrior())
