"""NormalisedLinf: a box per channel, the Linf ball of a model that normalises its input."""

import pytest
import torch
from toys import Linear2, photos

import robustrestore as rr
from robustrestore import checks
from robustrestore.modes import generator

STD = torch.tensor([0.1, 0.2, 0.4]).view(1, 3, 1, 1)


@pytest.mark.parametrize("threat", [rr.NormalisedLinf(), rr.NormalisedLinf(0.3, [0.1, 0.2, 0.4]), rr.NormalisedLinf(2, [0.1])])
def test_the_public_promises(threat: rr.Threat) -> None:
    checks.check_threat(threat)
    checks.check_component(threat)


def test_projection_size_and_steepest_are_those_of_the_normalised_image() -> None:
    threat, inner = rr.NormalisedLinf(0.5, [0.1, 0.2, 0.4]), rr.Linf(0.5)
    delta = torch.randn(4, 3, 5, 6, generator=generator(0)) * 0.2
    torch.testing.assert_close(threat.limit(delta), inner.limit(delta / STD) * STD)
    torch.testing.assert_close(threat.size(delta), inner.size(delta / STD))
    gradient = torch.randn(4, 3, 5, 6, generator=generator(1))
    torch.testing.assert_close(threat.steepest(gradient), inner.steepest(gradient * STD) * STD)
    ones = torch.ones(1, 3, 1, 1)
    torch.testing.assert_close(threat.limit(ones), 0.5 * STD)
    torch.testing.assert_close(threat.limit(-ones), -0.5 * STD)


def test_starts_fill_the_box_of_each_channel() -> None:
    change = rr.NormalisedLinf(1.0, [0.1, 0.2, 0.4]).draw(torch.zeros(4, 3, 64, 64), generator(0)) / STD
    assert (change.abs().amax((0, 2, 3)) > 0.99).all()
    assert change.abs().max() <= 1 + 1e-6
    assert (change.mean((0, 2, 3)).abs() < 0.03).all()


def test_pgd_reaches_the_corner() -> None:
    images, model = photos(2, 6, 6), Linear2()
    goal = rr.tasks.Classification().untargeted(torch.zeros(2, dtype=torch.long))
    found = rr.attacks.PGD(rr.NormalisedLinf(0.05), steps=12)(model, images, goal)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    torch.testing.assert_close(found, images - 0.05 * std * model.weight.detach().sign(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_stays_in_the_box(dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 6, 6, generator=generator(4)).to(dtype)
    threat = rr.NormalisedLinf(0.2)
    goal = rr.tasks.Classification().untargeted(torch.tensor([0, 1]))
    found = rr.attacks.PGD(threat, steps=4)(Linear2().to(dtype), images, goal)
    assert float(threat.size(found.double() - images.double()).max()) <= threat.eps + 1e-6
    assert not torch.equal(found, images)


def test_slips_are_named() -> None:
    with pytest.raises(ValueError, match="std: expected finite values > 0"):
        rr.NormalisedLinf(1.0, [0.1, 0.0, 0.2])
    with pytest.raises(ValueError, match="std: expected finite values > 0"):
        rr.NormalisedLinf(1.0, [])
    with pytest.raises(ValueError, match="expected one value for each of 1 channels, got 3"):
        rr.NormalisedLinf().project(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
