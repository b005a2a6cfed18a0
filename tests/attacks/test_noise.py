"""Noise is noise: around 0, both signs, uniform in the ball, and never compared with the clean image."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from toys import Gain, Linear2, Moody, photos

import robustrestore as rr

EPS = 8 / 255


@pytest.fixture(autouse=True)
def _always_the_same() -> Iterator[None]:
    with rr.seeded(0):
        yield


NOISES = pytest.mark.parametrize("noise", [rr.attacks.UniformNoise, rr.attacks.GaussianNoise], ids=lambda c: c.name)


def labels(count: int) -> rr.Objective:
    return rr.tasks.Classification().untargeted(torch.zeros(count, dtype=torch.long))


def change(attack: rr.Attack, count: int = 40, level: float = 0.5) -> Tensor:
    images = torch.full((count, 3, 8, 10), level)
    return attack(Gain(), images, rr.tasks.Restoration().untargeted(images)) - images


@NOISES
@pytest.mark.parametrize("threat", [rr.Linf(EPS), rr.L2(0.3)], ids=repr)
def test_around_zero_with_both_signs(noise: type[rr.Attack], threat: rr.Threat) -> None:
    delta = change(noise(threat, seed=None))
    spread = float(delta.square().mean().sqrt())
    assert abs(float(delta.mean())) < 4 * spread / delta.numel() ** 0.5
    assert 0.48 < float((delta > 0).float().mean()) < 0.52
    assert (delta.mean(0).abs() < spread).all()  # no pattern that all images share


def test_uniform_noise_is_uniform_in_the_ball() -> None:
    flat = change(rr.attacks.UniformNoise(rr.Linf(EPS), seed=None)).flatten() / EPS
    shares = torch.histc(flat, 8, -1, 1) / flat.numel()
    assert (shares - 1 / 8).abs().max() < 0.01
    delta = change(rr.attacks.UniformNoise(rr.L2(0.3), seed=None), 400)
    radius = rr.L2(0.3).size(delta) / 0.3
    assert (radius ** (3 * 8 * 10) - 0.5).mean().abs() < 0.06  # the share of the ball within this radius is uniform
    parts = (delta / delta.flatten(1).norm(dim=1)[:, None, None, None]).flatten(1)
    assert (parts.T @ parts / 400 * 240 - torch.eye(240)).abs().mean() < 0.06  # no direction is favoured


def test_gaussian_noise_measures_the_same_and_is_cut() -> None:
    delta = change(rr.attacks.GaussianNoise(rr.Linf(EPS), seed=None))
    cut = float((delta.abs() > EPS * (1 - 1e-4)).float().mean())
    assert 0.073 < cut < 0.094  # beyond sqrt(3) standard deviations
    inner = delta.abs() < EPS / 3**0.5
    assert 0.67 < float(inner.float().mean()) < 0.70  # within one
    uniform = change(rr.attacks.UniformNoise(rr.L2(0.3), seed=None))
    assert abs(float(change(rr.attacks.GaussianNoise(rr.L2(0.3), seed=None)).norm() / uniform.norm()) - 1) < 0.05


@NOISES
def test_a_row_of_noise_is_not_compared_with_the_clean_image(noise: type[rr.Attack]) -> None:
    images, model = photos(30, 6, 6), Linear2()
    goal = labels(30)
    assert not noise.ascends
    found = noise(rr.Linf(EPS), seed=None)(model, images, goal)
    lower = goal.gain(model(found)) < goal.gain(model(images))
    assert 0.2 < lower.float().mean() < 0.8
    assert ((found - images).abs().flatten(1).amax(1) > EPS / 2).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = noise(rr.Linf(EPS), seed=0)(model, images, goal)
    assert ((again - images).abs().flatten(1).amax(1) > EPS / 2).all()


@NOISES
def test_of_more_draws_the_worst_is_kept(noise: type[rr.Attack]) -> None:
    images, model, goal = photos(30, 6, 6), Linear2(), labels(30)

    def gain(draws: int) -> Tensor:
        attacks = [noise(rr.Linf(EPS), draws=draws, seed=seed) for seed in range(4)]
        return torch.stack([goal.gain(model(attack(model, images, goal))) for attack in attacks]).detach()

    one, two, many = gain(1), gain(2), gain(20)
    assert (two >= one).all()  # the first draw is one of the two
    assert (many >= two).all()
    assert many.mean() > one.mean()
    with pytest.raises(ValueError, match="draws: expected a whole number >= 1, got 0"):
        noise(rr.Linf(EPS), draws=0)


@NOISES
def test_a_seed_gives_every_image_the_same_noise_whatever_its_batch(noise: type[rr.Attack]) -> None:
    images, model = torch.full((3, 3, 5, 7), 0.5), Moody()
    goal = rr.tasks.Restoration().untargeted(images)
    whole = noise(rr.Linf(EPS), draws=3)(model, images, goal)
    assert torch.equal(whole[0], whole[2])
    assert torch.equal(whole[:1], noise(rr.Linf(EPS), draws=3)(model, images[:1], goal.at(torch.tensor([0]))))
    fresh = noise(rr.Linf(EPS), seed=None)(model, images, goal)
    assert not torch.equal(fresh[0], fresh[1])


def test_a_constant_shift_is_the_better_of_two() -> None:
    images, model, goal = photos(8, 6, 6), Linear2(), labels(8)
    found = rr.attacks.ConstantShift(rr.Linf(EPS))(model, images, goal)
    down = bool(model.weight.sum() > 0)  # class 0 loses where w x falls
    torch.testing.assert_close(found, images + (-EPS if down else EPS), atol=1e-6, rtol=0)
    with torch.no_grad():
        model.weight.neg_()
    torch.testing.assert_close(
        rr.attacks.ConstantShift(rr.Linf(EPS))(model, images, goal), images + (EPS if down else -EPS), atol=1e-6, rtol=0
    )
    delta = rr.attacks.ConstantShift(rr.L2(0.3))(model, images, goal) - images
    torch.testing.assert_close(delta.flatten(1).norm(dim=1), torch.full((8,), 0.3))
    assert (delta - delta[:1, :1, :1, :1]).abs().max() < 1e-6


def test_a_constant_shift_has_a_closed_form_on_a_restorer() -> None:
    images = photos(2)
    goal = rr.tasks.Restoration().untargeted(images * 0.5)
    found = rr.attacks.ConstantShift(rr.Linf(EPS))(Gain(0.5), images, goal)
    torch.testing.assert_close(goal.gain(Gain(0.5)(found)), torch.full((2,), (0.5 * EPS) ** 2))


@pytest.mark.parametrize("name", ["uniform_noise", "gaussian_noise", "constant_shift"])
def test_promises_and_broken_models(name: str) -> None:
    images = torch.rand(2, 3, 5, 9, generator=torch.Generator().manual_seed(4))
    for threat in (rr.Linf(EPS), rr.L2(0.3), rr.Linf(0.0), rr.threat.NormalisedLinf(0.1)):
        attack = rr.Attack.named(name)(threat)
        rr.checks.check_attack(attack, Gain(), images, rr.tasks.Restoration().untargeted(images))
        if threat.eps == 0:
            assert torch.equal(attack(Gain(), images, rr.tasks.Restoration().untargeted(images)), images)
    with pytest.raises(ValueError, match="got NaN or infinity"):
        attack(lambda x: x * torch.nan, images, rr.tasks.Restoration().untargeted(images))
