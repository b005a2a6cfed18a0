"""Attacks confined to what a restorer changes, or to the rest."""

import pytest
import torch
from torch import Tensor, nn
from toys import photos

import robustrestore as rr
from robustrestore import checks

EPS = 8 / 255
TASK = rr.tasks.Restoration()


class Derain(nn.Module):
    """Takes off half of what is brighter than 0.7."""

    def forward(self, images: Tensor) -> Tensor:
        return images - 0.5 * (images - 0.7).clamp(min=0)


def _rainy() -> tuple[Tensor, Tensor]:
    rain = torch.rand(2, 1, 16, 20, generator=torch.Generator().manual_seed(6)) < 0.2
    return torch.where(rain, 0.9, photos(2) * 0.6), rain.expand(-1, 3, -1, -1)


def test_only_the_region_changes_and_the_optimum_there_is_reached() -> None:
    images, rain = _rainy()
    model, goal = Derain(), TASK.untargeted(images * 0.5)
    inner = rr.attacks.PGD(rr.Linf(EPS), steps=12)
    for kind, place in ((rr.attacks.DegradedOnly, rain), (rr.attacks.IntactOnly, ~rain)):
        found = kind(inner)(model, images, goal)
        torch.testing.assert_close(found, torch.where(place, images + EPS, images), atol=1e-6, rtol=0)
        checks.check_attack(kind(inner), model, images, goal)


@pytest.mark.parametrize("kind", [rr.attacks.DegradedOnly, rr.attacks.IntactOnly], ids=lambda k: k.__name__)
def test_losses_settings_and_the_zero_gradient_within_a_region(kind: type[rr.Attack]) -> None:
    images, _ = _rainy()
    attack = kind(rr.attacks.PGD(rr.Linf(EPS), steps=5, loss=rr.losses.CleanOutput()), threshold=0.05)
    checks.check_component(attack)
    model = Derain()
    goal = TASK.untargeted(model(images))
    assert (goal.gain(model(attack(model, images, goal))) > 0).all()


def test_no_region_no_change() -> None:
    images = photos(1) * 0.6
    goal = TASK.untargeted(images * 0.5)
    assert torch.equal(rr.attacks.DegradedOnly(rr.attacks.PGD(rr.Linf(EPS)))(Derain(), images, goal), images)


class _Halving(rr.Attack):
    def __init__(self, threat: rr.Threat) -> None:
        self.threat = threat

    def run(self, model: object, images: Tensor, objective: rr.Objective) -> Tensor:
        model(images[:1])  # type: ignore[operator]
        return images


def test_slips_are_named() -> None:
    images, _ = _rainy()
    with pytest.raises(TypeError, match="attack: expected an attack"):
        rr.attacks.DegradedOnly(rr.Linf(EPS))
    with pytest.raises(ValueError, match="attack: expected one that does harm"):
        rr.attacks.IntactOnly(rr.attacks.AMA(rr.Linf(EPS)))
    with pytest.raises(ValueError, match="threshold: expected"):
        rr.attacks.DegradedOnly(rr.attacks.PGD(rr.Linf(EPS)), threshold=-1)
    with pytest.raises(ValueError, match="all 2 images at once, got 1"):
        rr.attacks.DegradedOnly(_Halving(rr.Linf(EPS)))(Derain(), images, TASK.untargeted(images))
