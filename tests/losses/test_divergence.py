"""Divergence against PyTorch's own, and where it must not look: at labels, at ignored pixels, at the clean image."""

import pytest
import torch
from toys import Gain, Linear2, photos

import robustrestore as rr

LABELS = rr.tasks.Classification()
MAPS = rr.tasks.Segmentation(ignore=9)


def _logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _goal(objective: rr.Objective, clean: torch.Tensor) -> rr.Objective:
    return rr.losses.Divergence()(lambda images: clean, torch.zeros(len(clean), 1, 1, 1), objective)


def _kl(clean: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    first, second = (torch.distributions.Categorical(logits=z.movedim(1, -1)) for z in (clean, now))
    return torch.distributions.kl_divergence(first, second)


def test_labels_and_maps_equal_the_reference() -> None:
    clean, now, labels = _logits(0, 3, 4), _logits(1, 3, 4), torch.tensor([0, 1, 2])
    goal = _goal(LABELS.untargeted(labels), clean)
    torch.testing.assert_close(goal.gain(now), _kl(clean, now))
    torch.testing.assert_close(_goal(LABELS.untargeted(labels * 0 + 3), clean).gain(now), goal.gain(now))
    clean, now = _logits(2, 2, 4, 2, 3), _logits(3, 2, 4, 2, 3)
    target = torch.tensor([[[9, 0, 1], [2, 3, 9]], [[9, 9, 9], [9, 9, 9]]])
    goal = _goal(MAPS.untargeted(target), clean)
    wanted = (_kl(clean, now) * (target != 9)).flatten(1).sum(1) / torch.tensor([4, 1])
    torch.testing.assert_close(goal.gain(now), wanted)
    index = torch.tensor([0])
    torch.testing.assert_close(goal.at(index).gain(now[index]), wanted[index])


def test_images_are_compared_by_their_error() -> None:
    images, clean = photos(2), photos(2) * 0.5
    goal = rr.losses.Divergence()(lambda images: clean, images, rr.tasks.Restoration().untargeted(images))
    assert torch.equal(goal.gain(clean), torch.zeros(2))
    torch.testing.assert_close(goal.gain(images), (images - clean).square().flatten(1).mean(1))


def test_gradients_equal_finite_differences_and_vanish_at_the_clean_output() -> None:
    clean, now = _logits(4, 2, 5, 2, 2), _logits(5, 2, 5, 2, 2)
    goal = _goal(MAPS.untargeted(torch.tensor([[[9, 1], [2, 3]]] * 2)), clean)
    assert torch.autograd.gradcheck(goal.gain, (now.requires_grad_(),))
    leaf = clean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(goal.gain(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(goal.gain(now).sum(), now)
    assert (gradient[:, :, 0, 0] == 0).all()
    assert (gradient[:, :, 1, 1] != 0).all()


def test_a_gap_of_120_stays_finite() -> None:
    sure = torch.tensor([[120.0, 0.0, 0.0]])
    for clean, now in ((sure, -sure), (-sure, sure), (sure, sure)):
        leaf = now.clone().requires_grad_()
        gain = _goal(LABELS.untargeted(torch.tensor([0])), clean).gain(leaf)
        (gradient,) = torch.autograd.grad(gain.sum(), leaf)
        assert gain.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("task", ["classification", "restoration"])
def test_pgd_climbs_it_to_the_end_of_the_ball(task: str) -> None:
    images, eps = photos(2, 6, 6), 0.05
    model, target = {"classification": (Linear2(), torch.tensor([0, 0])), "restoration": (Gain(), images)}[task]
    objective = rr.losses.Divergence()(model, images, rr.Task.named(task)().untargeted(target))
    found = rr.attacks.PGD(rr.Linf(eps), steps=20, loss=rr.losses.Divergence())(model, images, objective)
    torch.testing.assert_close((found - images).abs(), torch.full_like(images, eps), atol=1e-6, rtol=0)
