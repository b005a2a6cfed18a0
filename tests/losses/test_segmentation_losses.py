"""The losses of segmentation attacks against their definitions, finite differences and the traps of their first versions."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import robustrestore as rr

IGNORE = 255
LOSSES: dict[str, Callable[[], rr.Loss]] = {
    "balanced": rr.losses.BalancedCrossEntropy,
    "cosine": rr.losses.CosineWeighted,
    "jensen_shannon": rr.losses.JensenShannon,
    "masked": rr.losses.MaskedCrossEntropy,
    "seg_pgd": lambda: rr.losses.SegPGDWeighted(0.3),
}
each_loss = pytest.mark.parametrize("name", sorted(LOSSES))
both_ways = pytest.mark.parametrize("towards", [False, True], ids=["away", "towards"])


def _case(classes: int = 4, height: int = 3, width: int = 5) -> tuple[Tensor, Tensor]:
    own = torch.Generator().manual_seed(3)
    logits = torch.randn(2, classes, height, width, generator=own, dtype=torch.float64) - 3  # all-negative scores happen
    target = torch.randint(0, classes, (2, height, width), generator=own)
    target[0, 0] = IGNORE
    return logits, target


def _goal(loss: rr.Loss, target: Tensor, towards: bool = False) -> rr.Objective:
    task = rr.tasks.Segmentation(ignore=IGNORE)
    objective = task.targeted(target) if towards else task.untargeted(target)
    return loss(lambda x: x, target[:, None].float(), objective)


def _gradient(goal: rr.Objective, logits: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(goal.gain(leaf).sum(), leaf)
    return gradient


def _numeric(value: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    found, small = torch.zeros_like(at).flatten(), 1e-6
    for k in range(at.numel()):
        shift = torch.zeros_like(found)
        shift[k] = small
        up, down = (value(at + sign * shift.view_as(at)).sum() for sign in (1, -1))
        found[k] = (up - down) / (2 * small)
    return found.view_as(at)


@each_loss
@both_ways
def test_gradient_is_that_of_finite_differences(name: str, towards: bool) -> None:
    logits, target = _case()
    goal = _goal(LOSSES[name](), target, towards)
    valid, labels = target != IGNORE, target.where(target != IGNORE, 0)
    if name == "cosine":  # its weight is held fixed in the gradient
        weight = F.cosine_similarity(logits.softmax(1), F.one_hot(labels, 4).movedim(-1, 1).double())
        weight = -(1 - weight) if towards else weight

        def value(z: Tensor) -> Tensor:
            return (weight * valid * F.cross_entropy(z, labels, reduction="none")).flatten(1).sum(1) / valid.flatten(1).sum(1)

        torch.testing.assert_close(goal.gain(logits), value(logits))
    else:
        value = goal.gain
    torch.testing.assert_close(_gradient(goal, logits), _numeric(value, logits), atol=1e-8, rtol=1e-5)


@each_loss
@both_ways
def test_ignored_pixels_get_no_gradient_and_a_map_without_labels_gives_zero(name: str, towards: bool) -> None:
    logits, target = _case()
    gradient = _gradient(_goal(LOSSES[name](), target, towards), logits)
    assert (gradient[0, :, 0] == 0).all()
    assert (gradient != 0).any()
    empty = _goal(LOSSES[name](), torch.full_like(target, IGNORE), towards)
    assert torch.equal(empty.gain(logits), torch.zeros(2, dtype=torch.float64))
    assert torch.equal(_gradient(empty, logits), torch.zeros_like(logits))


@each_loss
@both_ways
@pytest.mark.parametrize("gap", [120.0, -120.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_a_gap_of_120_between_logits_is_finite(name: str, towards: bool, gap: float, classes: int) -> None:
    logits = torch.zeros(1, classes, 1, 2)
    logits[:, 0] = gap
    goal = _goal(LOSSES[name](), torch.zeros(1, 1, 2, dtype=torch.long), towards)
    assert goal.gain(logits).isfinite().all()
    assert _gradient(goal, logits).isfinite().all()


@each_loss
def test_a_label_out_of_range_is_named_and_images_are_refused(name: str) -> None:
    logits, target = _case()
    with pytest.raises((IndexError, ValueError), match="-1"):
        _goal(LOSSES[name](), target.where(target != 2, -1)).gain(logits)
    if name != "cosine":
        images = torch.rand(1, 3, 4, 4)
        with pytest.raises(TypeError, match="a task with classes"):
            LOSSES[name]()(lambda x: x, images, rr.tasks.Restoration().untargeted(images))


def _map(loss: rr.Loss, logits: Tensor, target: Tensor, towards: bool = False) -> Tensor:
    """The loss of each pixel [N, H, W], found one pixel at a time."""
    task = rr.tasks.Segmentation(ignore=IGNORE)
    values = torch.zeros(target.shape, dtype=logits.dtype)
    for row in range(target.shape[1]):
        for column in range(target.shape[2]):
            here = torch.full_like(target, IGNORE)
            here[:, row, column] = target[:, row, column]
            objective = task.targeted(here) if towards else task.untargeted(here)
            values[:, row, column] = loss(lambda x: x, logits, objective).gain(logits)
    return values


def test_jensen_shannon_is_the_mean_divergence_from_the_mixture() -> None:
    logits, target = _case()
    target = target.where(target != IGNORE, 1)
    p, q = logits.softmax(1), F.one_hot(target, 4).movedim(-1, 1).double()
    mixed = (p + q) / 2
    wanted = ((p * (p / mixed).log()).sum(1) + torch.xlogy(q, q / mixed).sum(1)) / 2
    torch.testing.assert_close(_map(rr.losses.JensenShannon(), logits, target), wanted, atol=1e-13, rtol=1e-10)
    torch.testing.assert_close(_map(rr.losses.JensenShannon(), logits, target, towards=True), -wanted, atol=1e-13, rtol=1e-10)


def test_jensen_shannon_at_its_ends() -> None:
    gaps = torch.tensor([-120.0, -30.0, 0.0, 30.0, 120.0])
    logits = torch.stack([gaps, torch.zeros(5)])[None, :, None]
    values = _map(rr.losses.JensenShannon(), logits, torch.zeros(1, 1, 5, dtype=torch.long))[0, 0]
    p = 1 / (1 + math.exp(30))
    assert values[0] == pytest.approx(math.log(2), abs=1e-7)
    assert float(values.max()) <= math.log(2) + 1e-7
    assert values[3] == pytest.approx(p * math.log(2) / 2, rel=1e-3)  # 1 - p is lost to rounding there
    assert (values.diff() <= 0).all()
    assert values[4] == 0


def test_jensen_shannon_flattens_on_wrong_pixels_where_cross_entropy_does_not() -> None:
    logits, target = torch.tensor([[-12.0], [0.0]])[None, :, None], torch.zeros(1, 1, 1, dtype=torch.long)
    flat = _gradient(_goal(rr.losses.JensenShannon(), target), logits).abs().max()
    steep = _gradient(rr.tasks.Segmentation().untargeted(target), logits).abs().max()
    assert float(flat) < 1e-3 < 0.9 < float(steep)


@both_ways
def test_masks_and_weights(towards: bool) -> None:
    logits, target = _case()
    target = target.where(target != IGNORE, 1)
    entropy, right = F.cross_entropy(logits, target, reduction="none"), logits.argmax(1) == target
    assert 0 < int(right.sum()) < right.numel()
    sign, counted = (-1, ~right) if towards else (1, right)
    torch.testing.assert_close(_map(rr.losses.MaskedCrossEntropy(), logits, target, towards), sign * entropy * counted)
    weights = torch.where(counted, 0.8, 0.2).double()
    torch.testing.assert_close(_map(rr.losses.SegPGDWeighted(0.2), logits, target, towards), sign * entropy * weights)


def test_balanced_gives_each_class_of_an_image_the_same_weight() -> None:
    target = torch.tensor([[[0, 0, 0, 0, 0, 0, 2, 2, 1, IGNORE]], [[1] * 9 + [IGNORE]]])
    logits = torch.zeros(2, 4, 1, 10, dtype=torch.float64)
    logits.scatter_(1, target.where(target != IGNORE, 0)[:, None], 1.0)  # all right, and all of one cross-entropy
    slope = _gradient(_goal(rr.losses.BalancedCrossEntropy(), target), logits)
    pull = -slope.gather(1, target.where(target != IGNORE, 0)[:, None])[:, 0, 0]
    per_class = [float(pull[0][target[0, 0] == label].sum()) for label in (0, 1, 2)]
    assert per_class == pytest.approx([per_class[0]] * 3)
    plain = _goal(rr.losses.MaskedCrossEntropy(), target)
    torch.testing.assert_close(
        _goal(rr.losses.BalancedCrossEntropy(), target).gain(logits), plain.gain(logits)
    )  # mean weight 1
    torch.testing.assert_close(slope[1], _gradient(plain, logits)[1])  # one class: nothing to balance


def test_cosine_of_images_is_the_definition_and_of_one_channel_the_tasks_own_loss() -> None:
    own, task = torch.Generator().manual_seed(1), rr.tasks.Restoration()
    outputs, target = (4 * torch.rand(2, 3, 4, 5, generator=own, dtype=torch.float64) for _ in range(2))
    weight = F.cosine_similarity(outputs.softmax(1), target.softmax(1))[:, None]
    errors = (outputs - target).square()
    loss = rr.losses.CosineWeighted()
    away, towards = (loss(lambda x: x, outputs, goal(target)) for goal in (task.untargeted, task.targeted))
    torch.testing.assert_close(away.gain(outputs), (weight * errors).flatten(1).mean(1))
    torch.testing.assert_close(towards.gain(outputs), -((1 - weight) * errors).flatten(1).mean(1))
    torch.testing.assert_close(_gradient(away, outputs), 2 * weight * (outputs - target) / 60)
    for objective in (task.untargeted(target[:, :1]), task.targeted(target[:, :1])):
        goal, one = loss(lambda x: x, outputs, objective), outputs[:, :1]
        assert torch.equal(_gradient(goal, one), _gradient(objective, one))
    with pytest.raises(ValueError, match="expected the shape of the target"):
        away.gain(outputs[..., :3])


def test_cosine_is_close_to_one_on_images_in_0_1() -> None:
    own, task = torch.Generator().manual_seed(1), rr.tasks.Restoration()
    target = torch.rand(1, 3, 8, 8, generator=own)
    outputs = (target + 0.02 * torch.randn(target.shape, generator=own)).clamp(0, 1)
    goal = rr.losses.CosineWeighted()(lambda x: x, outputs, task.untargeted(target))
    assert float(goal.gain(outputs)) == pytest.approx(float(task.loss(outputs, target)), rel=1e-3)


def test_which_losses_compare_between_images() -> None:
    assert {name for name in LOSSES if LOSSES[name]().comparable} == {"jensen_shannon"}


def test_a_share_outside_0_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share: expected a weight of wrong positions in \[0, 1\], got 1.5"):
        rr.losses.SegPGDWeighted(1.5)


@each_loss
def test_classification_has_the_same_loss(name: str) -> None:
    logits, labels = torch.tensor([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 1])
    one = LOSSES[name]()(lambda x: x, logits, rr.tasks.Classification().untargeted(labels)).gain(logits)
    pixel = _goal(LOSSES[name](), labels[:, None, None]).gain(logits[:, :, None, None])
    torch.testing.assert_close(one, pixel)
    assert (one > 0).all()
