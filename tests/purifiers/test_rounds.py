"""Rounds: the chain written by hand, the published levels, noise of its own in each round, exact gradients."""

import math

import pytest
import torch
from toys import photos
from toys_diffusion import Convolved, GaussianPrior, Oracle

import robustrestore as rr
from robustrestore import diffusion
from robustrestore.purifiers import Diffusion, Rounds

PAIRS = [[0.05, 2], [0.1, 3], [0.2, 4]]


def test_it_is_the_chain_of_its_rounds() -> None:
    images, denoiser = photos(3), GaussianPrior(0.5, 0.1)
    rounds = Rounds(Diffusion(denoiser, sampler=diffusion.DDPM(), seed=None), PAIRS)
    with rr.seeded(4):
        found = rounds(images)
    assert denoiser.calls == 9
    with rr.seeded(4):
        wanted = images
        for sigma, steps in PAIRS:
            wanted = Diffusion(denoiser, sigma=sigma, steps=steps, sampler=diffusion.DDPM(), seed=None)(wanted)
    assert torch.equal(found, wanted)


def test_one_pair_is_one_diffusion() -> None:
    images, purifier = photos(), Diffusion(Convolved(), sigma=0.15, steps=3, sampler=diffusion.DDPM(), seed=8)
    assert torch.equal(Rounds(purifier, [[0.15, 3]])(images), purifier(images))


def test_each_round_has_noise_of_its_own_the_same_for_every_image() -> None:
    images = photos(1, 64, 64).expand(3, -1, -1, -1)
    oracle = Oracle(images[:1])
    rounds = Rounds(Diffusion(oracle, seed=2), [[0.1, 1], [0.1, 1], [0.2, 1]])
    rounds(images)
    drawn = [shown - images for shown in oracle.shown]
    assert all(torch.equal(one[0], one[2]) for one in drawn)
    flat = torch.stack([one[0].flatten() for one in drawn])
    torch.testing.assert_close(torch.corrcoef(flat), torch.eye(3), atol=0.03, rtol=0)
    torch.testing.assert_close(flat.std(1), torch.tensor([0.1, 0.1, 0.2]), atol=0, rtol=0.03)
    torch.manual_seed(5)
    again, other = Oracle(images[:1]), Oracle(images[:1])
    rounds.replace(purifier=Diffusion(again, seed=2))(images[1:2])  # in other company
    assert all(torch.equal(one[:1], two) for one, two in zip(oracle.shown, again.shown, strict=True))
    rounds.replace(purifier=Diffusion(other, seed=3))(images[1:2])
    assert not any(torch.equal(one, two) for one, two in zip(other.shown, again.shown, strict=True))


def test_mean_and_variance_on_a_gaussian_prior() -> None:
    """One step a round: x becomes m + w (x + s n - m) with w = v / (v + s^2), so mean and variance follow by hand."""
    prior = GaussianPrior(0.5, 0.1)
    images = torch.full((1, 3, 128, 128), 0.6)
    found = Rounds(Diffusion(prior, seed=1), [[0.1, 1], [0.05, 1]])(images)
    mean, variance = 0.6, 0.0
    for sigma in (0.1, 0.05):
        trust = 0.01 / (0.01 + sigma**2)
        mean, variance = 0.5 + trust * (mean - 0.5), trust**2 * (variance + sigma**2)
    assert float(found.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / found.numel()))
    assert float(found.var()) == pytest.approx(variance, rel=0.03)


def test_the_published_levels() -> None:
    rounds = Rounds.lee_kim_cifar(GaussianPrior(), seed=3)
    times = [30] * 4 + [50] * 2 + [125] * 2
    alphas = diffusion.linear_alphas()
    levels = [math.sqrt((1 - alphas[t - 1]) / alphas[t - 1]) / 2 for t in times]  # t steps of noise are entry t - 1
    assert [sigma for sigma, _ in rounds.rounds] == pytest.approx(levels, rel=1e-12)
    assert [steps for _, steps in rounds.rounds] == times
    assert levels[4] == pytest.approx(0.0864, abs=5e-5)
    assert levels[6] == pytest.approx(0.213, abs=5e-4)
    assert rounds.seed == 3


def test_the_published_rounds_stop_at_every_timestep() -> None:
    images = torch.full((1, 1, 2, 2), 0.5)
    oracle = Oracle(images)
    assert torch.equal(Rounds.lee_kim_cifar(oracle)(images), images)
    alphas = torch.tensor(diffusion.linear_alphas(), dtype=torch.float64)
    table = ((1 - alphas) / alphas).sqrt() / 2
    wanted = torch.cat([table[:t].flip(0) for t in [30] * 4 + [50] * 2 + [125] * 2])
    assert len(oracle.told) == 470
    torch.testing.assert_close(torch.tensor(oracle.told, dtype=torch.float64), wanted, atol=0, rtol=1e-5)


@pytest.mark.parametrize("seed", [4, None])
def test_checkpointed_gradients_are_those_of_plain_autograd(seed: int | None) -> None:
    images, denoiser = photos().double(), Convolved().double()
    weight = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    purifier = Diffusion(denoiser, sampler=diffusion.DDPM(), seed=seed)
    found = []
    for checkpointed in (True, False):
        leaf = images.clone().requires_grad_()
        with rr.seeded(3):
            out = Rounds(purifier.replace(checkpointed=checkpointed), PAIRS)(leaf)
            found.append(torch.autograd.grad((weight * out).sum(), leaf)[0])
    assert float(found[0].abs().max()) > 0
    torch.testing.assert_close(*found, atol=1e-13, rtol=0)


def test_gradcheck() -> None:
    rounds = Rounds(Diffusion(Convolved(1).double(), sampler=diffusion.DDPM()), [[0.02, 1], [0.05, 2]])
    own = torch.Generator().manual_seed(0)
    leaf = (0.3 + 0.4 * torch.rand(2, 1, 4, 3, generator=own, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(rounds, leaf)


def test_networks_are_held_once_and_move_along(tmp_path) -> None:
    denoiser = Convolved()
    rounds = Rounds(Diffusion(denoiser), PAIRS)
    assert set(rounds.state_dict()) == {f"purifier.denoiser.{name}" for name in denoiser.state_dict()}
    assert rounds.double()(photos().double()).dtype == torch.float64
    assert rounds.replace(rounds=[[0.1, 1]]).purifier.denoiser is denoiser


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "rounds: expected pairs"),
        ([0.1, 5], "rounds: expected pairs"),
        ([[0.1, 5, 2]], "rounds: expected pairs"),
        ([[-0.1, 5]], "sigma: expected a finite level >= 0"),
        ([[0.1, 0]], "steps: expected a whole number >= 1, got 0"),
    ],
    ids=str,
)
def test_wrong_values(pairs: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rounds(Diffusion(GaussianPrior()), pairs)


def test_wrong_kind_of_part() -> None:
    with pytest.raises(TypeError, match=r"purifier: expected a purifiers.Diffusion, got GaussianPrior"):
        Rounds(GaussianPrior(), PAIRS)
