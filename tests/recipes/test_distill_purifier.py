"""DistillPurifier: the student becomes the teacher, or lies between what a random one gives; teacher and model stay."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from toys import Gain, photos
from toys_training import equal, state

import robustrestore as rr

TASK = rr.tasks.Restoration()
ATTACK = rr.attacks.PGD(rr.Linf(4 / 255), steps=1)
PLAN = rr.Plan(steps=150, batch=4, optimiser=rr.AdamW(lr=0.03, weight_decay=0.0), average=None, clip=None)


class Dim(rr.Purifier):
    """Times 0.8 or 0.6, by a coin for the batch."""

    def run(self, images: torch.Tensor) -> torch.Tensor:
        return images * (0.6 + 0.2 * torch.randint(2, ()))


def _data() -> TensorDataset:
    return TensorDataset(photos(8), photos(8))


def test_the_student_becomes_the_teacher() -> None:
    teacher, student, model = rr.restorers.Network(Gain(0.7)), rr.restorers.Network(Gain(1.0)), Gain(1.0)
    before = state(teacher), state(model)
    history = rr.fit(rr.recipes.DistillPurifier(teacher, student, model, TASK, ATTACK), _data(), PLAN, quiet=True)
    assert student.network.gain.item() == pytest.approx(0.7, abs=0.005)
    assert history.rows[-1]["loss"] < 0.01
    assert equal(state(teacher), before[0])
    assert equal(state(model), before[1])


def test_of_a_random_teacher_it_learns_what_lies_between() -> None:
    student = rr.restorers.Network(Gain(1.0))
    rr.fit(rr.recipes.DistillPurifier(Dim(), student, Gain(), TASK, ATTACK, share=0.0), _data(), PLAN, quiet=True)
    assert 0.6 < student.network.gain.item() < 0.8


def test_the_task_pulls_where_it_has_weight() -> None:
    """Teacher 0.7, truth 1: with a heavy task loss the student stays near the truth."""
    found = []
    for weight in (0.0, 50.0):
        student = rr.restorers.Network(Gain(0.85))
        recipe = rr.recipes.DistillPurifier(
            rr.restorers.Network(Gain(0.7)), student, Gain(), TASK, ATTACK, share=0.5, weight=weight
        )
        losses = recipe(rr.Batch(photos(4), photos(4)))
        rr.fit(recipe, _data(), PLAN.replace(steps=60), quiet=True)
        found.append(student.network.gain.item())
    assert found[0] == pytest.approx(0.7, abs=0.02)
    assert found[1] > 0.9
    assert set(losses) == {"loss", "difference", "task"}
    assert losses["loss"].item() == pytest.approx(losses["difference"].item() + 50 * losses["task"].item(), rel=1e-5)


def test_targets_that_do_not_fit_are_named_before_anything_is_attacked_or_trained() -> None:
    class Untouched(rr.attacks.PGD):
        def run(self, *args: object) -> torch.Tensor:
            raise AssertionError("attacked")

    model, attack = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), Untouched(rr.Linf(4 / 255))
    student = rr.restorers.Network(Gain(1.0))
    parts = (rr.restorers.Network(Gain(0.7)), student, model, rr.tasks.Classification(), attack)
    recipe, before = rr.recipes.DistillPurifier(*parts), state(student)
    for target, message in (
        (torch.tensor([0, 1, 2, 4]), "labels 0..3, got 0..4"),
        (torch.tensor([0, 1, 2]), "4"),
        (torch.zeros(4, 16, 20, dtype=torch.long), "target"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            rr.fit(recipe, TensorDataset(photos(4), target) if len(target) == 4 else [(photos(4), target)], PLAN, quiet=True)
        with pytest.raises((TypeError, ValueError), match=message):
            recipe(rr.Batch(photos(4), target))
    assert equal(state(student), before)
    with pytest.raises(AssertionError, match="attacked"):
        recipe(rr.Batch(photos(4), torch.tensor([0, 1, 2, 3])))


def test_shared_weights_are_refused() -> None:
    shared = nn.Conv2d(3, 3, 1)
    teacher, student = rr.restorers.Network(shared), rr.restorers.Network(shared)
    with pytest.raises(ValueError, match="deep copy"):
        rr.recipes.DistillPurifier(teacher, student, Gain(), TASK, ATTACK)
    rr.recipes.DistillPurifier(teacher, copy.deepcopy(student), Gain(), TASK, ATTACK)
    with pytest.raises(TypeError, match="teacher"):
        rr.recipes.DistillPurifier(shared, student, Gain(), TASK, ATTACK)  # type: ignore[arg-type]
