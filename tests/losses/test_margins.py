"""Margin, DLR and TargetedDLR against their formulas, at the points where others give 0 or NaN."""

import pytest
import torch
from torch import nn
from toys import Gain, Linear2, PixelSegmenter, photos

import robustrestore as rr
from robustrestore.loss import ClassLoss

LABELS = rr.tasks.Classification()
MAPS = rr.tasks.Segmentation(ignore=9)
LOSSES = [rr.losses.Margin(), rr.losses.Margin(confidence=0.3), rr.losses.DLR(), rr.losses.TargetedDLR(2)]


def _logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _goal(loss: rr.Loss, objective: rr.Objective, clean: torch.Tensor) -> rr.Objective:
    return loss(lambda images: clean, torch.zeros(len(clean), 1, 1, 1), objective)


@pytest.mark.parametrize("towards", [False, True])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradients_equal_finite_differences(loss: rr.Loss, towards: bool) -> None:
    target = torch.tensor([[[0, 3], [9, 4]], [[1, 1], [2, 9]]])
    for task, labels, logits in ((LABELS, target[:, 0, 0], _logits(2, 5)), (MAPS, target, _logits(2, 5, 2, 2))):
        objective = task.targeted(labels) if towards else task.untargeted(labels)
        goal = _goal(loss, objective, logits)
        assert torch.autograd.gradcheck(goal.gain, (logits.clone().requires_grad_(),))


def test_margin_of_negative_scores_is_not_zero() -> None:
    logits = torch.tensor([[-0.10, -0.05, -0.30], [-0.02, -0.05, -0.30]])
    away = _goal(rr.losses.Margin(), LABELS.untargeted(torch.tensor([1, 1])), logits).gain(logits)
    torch.testing.assert_close(away, torch.tensor([-0.05, 0.03]))
    towards = _goal(rr.losses.Margin(), LABELS.targeted(torch.tensor([1, 1])), logits).gain(logits)
    torch.testing.assert_close(towards, torch.tensor([0.05, -0.03]))


def test_margin_is_positive_once_wrong_and_cut_at_the_confidence() -> None:
    logits, labels = _logits(50, 4), torch.arange(50) % 4
    gain = _goal(rr.losses.Margin(), LABELS.untargeted(labels), logits).gain(logits)
    assert torch.equal(gain > 0, logits.argmax(1) != labels)
    cut = _goal(rr.losses.Margin(confidence=0.3), LABELS.untargeted(labels), logits).gain(logits)
    torch.testing.assert_close(cut, gain.clamp(max=0.3))
    assert (cut < gain).any()


def test_dlr_is_its_formula_whatever_the_scale() -> None:
    logits, labels = _logits(50, 6), torch.arange(50) % 6
    goal = _goal(rr.losses.DLR(), LABELS.untargeted(labels), logits)
    expected = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        ordered, rest = sorted(row, reverse=True), max(z for k, z in enumerate(row) if k != label)
        expected.append(-(row[label] - rest) / (ordered[0] - ordered[2]))
    wanted = torch.tensor(expected, dtype=torch.float64)
    for scale in (1e-4, 1.0, 1e4):
        torch.testing.assert_close(goal.gain(logits * scale), wanted)
    right = logits.argmax(1) == labels
    assert ((wanted[right] >= -1) & (wanted[right] <= 0)).all()
    assert right.any()


def test_targeted_dlr_is_its_formula_and_keeps_the_classes_of_the_clean_image() -> None:
    clean, logits, target = _logits(3, 5, 2, 2), _logits(6, 5, 2, 2)[3:], torch.tensor([0, 4, 9]).view(3, 1, 1).expand(3, 2, 2)
    for rank in (1, 3):
        goal, expected = _goal(rr.losses.TargetedDLR(rank), MAPS.untargeted(target), clean), []
        for image in range(2):
            values = []
            for place in range(4):
                before, row = (z[image].flatten(1)[:, place].tolist() for z in (clean, logits))
                label = int(target[image, 0, 0])
                rival = sorted((k for k in range(5) if k != label), key=lambda k: -before[k])[rank - 1]
                top = sorted(row, reverse=True)
                values.append((row[rival] - row[label]) / (top[0] - (top[2] + top[3]) / 2))
            expected.append(sum(values) / 4)
        torch.testing.assert_close(goal.gain(logits), torch.tensor([*expected, 0.0], dtype=torch.float64))
        one = torch.tensor([1])
        torch.testing.assert_close(goal.at(one).gain(logits[one]), goal.gain(logits)[one])
        torch.testing.assert_close(goal.mirrored().gain(logits), -goal.gain(logits))


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_class_that_is_masked_out_says_nothing(loss: rr.Loss) -> None:
    found, target = [], torch.arange(8) % 5
    for gone in (0, 1):
        leaf = _logits(8, 5).requires_grad_()
        logits = torch.cat([leaf, torch.full((8, gone), -torch.inf)], dim=1)
        gain = _goal(loss, LABELS.untargeted(target), logits.detach()).gain(logits)
        found.append((gain.detach(), torch.autograd.grad(gain.sum(), leaf)[0]))
    torch.testing.assert_close(found[0], found[1])
    assert (found[1][1] != 0).any()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("value", [0.0, -3.0, 1e4])
def test_ties_stay_finite(loss: rr.Loss, value: float) -> None:
    for logits in (torch.full((2, 5), value), torch.tensor([[value] * 3 + [value - 1] * 2] * 2)):
        leaf = logits.requires_grad_()
        gain = _goal(loss, LABELS.untargeted(torch.tensor([0, 4])), logits.detach()).gain(leaf)
        (gradient,) = torch.autograd.grad(gain.sum(), leaf)
        assert gain.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_ignored_pixels_and_maps_without_labels(loss: rr.Loss) -> None:
    leaf = _logits(2, 5, 2, 2).requires_grad_()
    target = leaf.argmax(1)
    target[0, 0, 0], target[1] = 9, 9
    gain = _goal(loss, MAPS.untargeted(target), leaf.detach()).gain(leaf)
    (gradient,) = torch.autograd.grad(gain.sum(), leaf)
    assert gain[1] == 0
    assert (gradient.movedim(1, -1)[target == 9] == 0).all()
    assert (gradient[0] != 0).any()


@pytest.mark.parametrize(("loss", "classes"), [(rr.losses.Margin(), 1), (rr.losses.DLR(), 2), (rr.losses.TargetedDLR(), 3)])
def test_too_few_classes_are_named(loss: rr.Loss, classes: int) -> None:
    logits = _logits(2, classes)
    with pytest.raises(ValueError, match=f"at least {classes + 1} classes, got {classes}"):
        _goal(loss, LABELS.untargeted(torch.tensor([0, 0])), logits).gain(logits)


def test_slips_are_named() -> None:
    with pytest.raises(ValueError, match="rank: expected"):
        rr.losses.TargetedDLR(0)
    with pytest.raises(ValueError, match="rank below the 5 classes, got 5"):
        _goal(rr.losses.TargetedDLR(5), LABELS.untargeted(torch.tensor([0])), _logits(1, 5))
    with pytest.raises(ValueError, match="confidence: expected"):
        rr.losses.Margin(confidence=-1.0)
    images = photos(1)
    for loss in LOSSES:
        named = type(loss).__name__ if isinstance(loss, ClassLoss) else "objective"
        with pytest.raises(TypeError, match=f"^{named}: expected .*a task with classes"):
            rr.attacks.PGD(rr.Linf(0.1), loss=loss)(Gain(), images, rr.tasks.Restoration().untargeted(images))


def test_pgd_on_the_margin_reaches_the_optimum_also_in_maps() -> None:
    images, model, eps = photos(2, 6, 6), Linear2(), 8 / 255
    attack = rr.attacks.PGD(rr.Linf(eps), steps=10, loss=rr.losses.Margin())
    found = attack(model, images, LABELS.untargeted(torch.tensor([0, 0])))
    torch.testing.assert_close(found, images - eps * model.weight.detach().sign(), atol=1e-6, rtol=0)
    target = PixelSegmenter()(images).argmax(1)
    found = attack(PixelSegmenter(), images, MAPS.untargeted(target))
    sign = torch.where(target == 0, -1.0, 1.0)
    torch.testing.assert_close(found[:, 0], images[:, 0] + eps * sign, atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", [rr.losses.DLR(), rr.losses.TargetedDLR()], ids=repr)
def test_a_model_sure_of_itself_hides_no_gradient(loss: rr.Loss) -> None:
    images = photos(2, 6, 6)
    with rr.seeded(0):
        inner = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))
    labels = inner(images).argmax(1)
    attack = rr.attacks.PGD(rr.Linf(0.2), steps=5, random_start=False)

    def sure(x: torch.Tensor) -> torch.Tensor:
        return 1e5 * inner(x)

    objective = LABELS.untargeted(labels)
    assert torch.equal(attack(sure, images, objective), images)  # cross-entropy: the gradient underflows
    found = attack.replace(loss=loss)(sure, images, objective)
    assert objective.reached(sure(found)).all()
    assert not objective.reached(sure(images)).any()


def test_a_targeted_dlr_moves_between_the_two_classes_for_a_targeted_goal() -> None:
    logits, wanted = _logits(4, 5), torch.arange(4)
    away = _goal(rr.losses.TargetedDLR(1), LABELS.untargeted(wanted), logits)
    towards = _goal(rr.losses.TargetedDLR(1), LABELS.targeted(wanted), logits)
    torch.testing.assert_close(towards.gain(logits), -away.gain(logits))
    assert towards.towards
