"""Tasks: losses against closed forms, what is ignored, what is refused, and the signs of goals."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from toys import photos

import robustrestore as rr
from robustrestore import checks
from robustrestore.tasks import Classification, Restoration, Segmentation

LOGITS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 4, 2, 2])
MAPS = torch.randn(3, 5, 6, 7, generator=torch.Generator().manual_seed(1))
TARGET = torch.randint(0, 5, (3, 6, 7), generator=torch.Generator().manual_seed(2))


def _maps() -> tuple[torch.Tensor, torch.Tensor]:
    target = TARGET.clone()
    target[:, :2] = 255
    return MAPS, target


def test_every_task_keeps_its_promises() -> None:
    checks.check_task(Classification(), LOGITS, LABELS)
    checks.check_task(Segmentation(), *_maps())
    checks.check_task(Segmentation(ignore=0), MAPS, TARGET)
    images = photos(3)
    checks.check_task(Restoration(), (images + 0.05).clamp(0, 1), images)


def test_a_task_that_does_not_say_what_is_wanted_is_refused() -> None:
    class Mute(Classification):
        def targeted(self, wanted: torch.Tensor) -> rr.Objective:
            return replace(super().targeted(wanted), towards=False)

    with pytest.raises(AssertionError, match="Mute broke a promise: targeted goals say towards=True, others do not"):
        checks.check_task(Mute(), LOGITS, LABELS)


def test_classification_is_cross_entropy() -> None:
    task = Classification()
    expected = LOGITS.exp().sum(1).log() - LOGITS[torch.arange(4), LABELS]
    torch.testing.assert_close(task.loss(LOGITS, LABELS), expected)
    even = torch.zeros(1, 10)
    torch.testing.assert_close(task.loss(even, torch.tensor([3])), torch.tensor([math.log(10)]))
    assert task.correct(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([1, 0])).tolist() == [True, False]


def test_segmentation_is_the_mean_over_labelled_pixels() -> None:
    maps, target = _maps()
    found = Segmentation().loss(maps, target)
    for k in range(3):
        expected = F.cross_entropy(maps[k][:, 2:].flatten(1).T, target[k, 2:].flatten())
        torch.testing.assert_close(found[k], expected)
    torch.testing.assert_close(
        Segmentation(ignore=7).loss(maps, TARGET), F.cross_entropy(maps, TARGET, reduction="none").mean((1, 2))
    )


def test_ignored_pixels_have_no_gradient_and_no_say() -> None:
    maps, target = _maps()
    leaf = maps.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Segmentation().loss(leaf, target).sum(), leaf)
    assert (gradient[:, :, :2] == 0).all()
    assert (gradient[:, :, 2:] != 0).all()
    changed = maps.clone()
    changed[:, :, :2] = 1e4 * torch.randn(3, 5, 2, 7)
    task = Segmentation()
    assert torch.equal(task.loss(changed, target), task.loss(maps, target))
    for metric in task.metrics():
        assert torch.equal(metric.measure(changed, target), metric.measure(maps, target))


def test_a_map_without_labels_is_solved_and_costs_nothing() -> None:
    target = TARGET.clone()
    target[1] = 255
    leaf, task = MAPS.clone().requires_grad_(), Segmentation()
    task.check(leaf, target)
    loss = task.loss(leaf, target)
    assert float(loss[1].detach()) == 0
    assert loss.isfinite().all()
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    assert (gradient[1] == 0).all()
    assert gradient.isfinite().all()
    assert task.correct(MAPS, target)[1]
    assert not task.untargeted(target).reached(MAPS)[1]
    statistics = [metric.measure(MAPS, target).double().numpy() for metric in task.metrics()]
    for metric, rows in zip(task.metrics(), statistics, strict=True):
        assert (rows[1] == 0).all()
        assert metric.value(rows) == pytest.approx(metric.value(rows[[0, 2]]))
        assert math.isnan(metric.value(rows[1:2]))


@pytest.mark.parametrize(("floor", "solved"), [(0.5, True), (0.6, True), (0.7, False), (1.0, False)])
def test_segmentation_is_solved_by_the_share_of_right_pixels(floor: float, solved: bool) -> None:
    target = torch.full((1, 2, 6), 255)
    target[0, 0, :5] = torch.tensor([0, 0, 0, 0, 0])
    maps = torch.zeros(1, 2, 2, 6)
    maps[0, 1, 0, 3:] = 1  # three of five labelled pixels are right
    assert Segmentation(floor=floor).correct(maps, target).tolist() == [solved]


def test_restoration_is_the_mean_square_and_its_psnr() -> None:
    images, task = photos(2), Restoration(floor=20)
    torch.testing.assert_close(task.loss(images + 0.1, images), torch.tensor([0.01, 0.01]))
    shifted = images + torch.tensor([0.099, 0.101]).view(2, 1, 1, 1)  # 20.09 and 19.91 dB
    assert task.correct(shifted, images).tolist() == [True, False]
    psnr = task.metrics()[0]
    assert psnr.value(psnr.measure(images + 0.1, images).numpy()) == pytest.approx(20, abs=1e-4)
    assert Restoration(floor=20).correct(torch.full((1, 3, 4, 4), 9.0), torch.ones(1, 3, 4, 4)).item()  # clamped first


def test_the_harm_of_a_restorer_is_the_error_that_is_shown() -> None:
    images, task = torch.full((2, 3, 4, 4), 0.9), Restoration()
    outputs = images + torch.tensor([0.5, -0.2]).view(2, 1, 1, 1)  # clamped, the first is 0.1 off
    away, wanted = task.untargeted(images), task.targeted(images)
    torch.testing.assert_close(away.gain(outputs), torch.tensor([0.25, 0.04]))
    torch.testing.assert_close(away.harm(outputs), torch.tensor([0.01, 0.04]))
    torch.testing.assert_close(wanted.harm(outputs), torch.tensor([0.99, 0.96]))
    assert away.mirrored().harm(outputs).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("task", "outputs", "target", "wanted"),
    [
        (Classification(), LOGITS, LABELS, (LABELS + 1) % 5),
        (Segmentation(), MAPS, TARGET, (TARGET + 1) % 5),
        (Restoration(), photos(3), photos(3).flip(3), photos(3).flip(2)),
    ],
    ids=["classification", "segmentation", "restoration"],
)
def test_signs_of_goals(task, outputs: torch.Tensor, target: torch.Tensor, wanted: torch.Tensor) -> None:
    away, towards = task.untargeted(target), task.targeted(wanted)
    torch.testing.assert_close(away.gain(outputs), task.loss(outputs, target))
    torch.testing.assert_close(towards.gain(outputs), -task.loss(outputs, wanted))
    torch.testing.assert_close(away.mirrored().gain(outputs), -task.loss(outputs, target))
    torch.testing.assert_close(towards.mirrored().gain(outputs), task.loss(outputs, wanted))
    assert torch.equal(away.reached(outputs), ~task.correct(outputs, target))
    assert torch.equal(towards.reached(outputs), task.correct(outputs, wanted))
    assert torch.equal(away.mirrored().reached(outputs), task.correct(outputs, target))
    assert torch.equal(away.mirrored().mirrored().gain(outputs), away.gain(outputs))
    torch.testing.assert_close(away.at(torch.tensor([2, 0])).gain(outputs[[2, 0]]), away.gain(outputs)[[2, 0]])
    leaf = outputs.clone().requires_grad_()  # following the gain does what the goal says
    for goal, sign in ((away, 1), (towards, -1)):
        (gradient,) = torch.autograd.grad(goal.gain(leaf).sum(), leaf)
        compared = target if goal is away else wanted
        moved = task.loss(outputs + 1e-2 * gradient / gradient.norm(), compared) - task.loss(outputs, compared)
        assert (sign * moved.sum()) > 0


def test_reached_where_the_answer_is_the_wanted_one() -> None:
    sure = 10 * F.one_hot(TARGET, 5).permute(0, 3, 1, 2).float()
    task = Segmentation()
    assert task.targeted(TARGET).reached(sure).all()
    assert not task.untargeted(TARGET).reached(sure).any()
    assert not task.targeted((TARGET + 1) % 5).reached(sure).any()
    assert task.untargeted((TARGET + 1) % 5).reached(sure).all()


def test_the_loss_of_a_sure_model_still_moves() -> None:
    leaves = [LOGITS.clone().requires_grad_() for _ in range(2)]
    losses = Classification().loss(leaves[0], LABELS), F.cross_entropy(leaves[1], LABELS, reduction="none")
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(one.sum(), leaf)[0] for one, leaf in zip(losses, leaves, strict=True)))
    gaps = torch.arange(20.0, 81.0)
    logits = torch.stack([gaps / 2, -gaps / 2, -gaps], dim=1).requires_grad_()
    loss = Classification().loss(logits, torch.zeros(61, dtype=torch.long))
    torch.testing.assert_close(loss, (-gaps).exp(), rtol=1e-4, atol=0)  # log-sum-exp less the logit: 0
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient[:, 1], (-gaps).exp(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("gap", [1e4, 1e30])
def test_sure_logits_stay_finite(gap: float) -> None:
    leaf = torch.tensor([[gap, 0.0], [0.0, gap]]).requires_grad_()
    loss = Classification().loss(leaf, torch.tensor([1, 1]))
    torch.testing.assert_close(loss, torch.tensor([gap, 0.0]))
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    maps = leaf.detach()[:, :, None, None].expand(-1, -1, 2, 2)
    torch.testing.assert_close(Segmentation().loss(maps, torch.ones(2, 2, 2, dtype=torch.long)), torch.tensor([gap, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_have_a_float32_loss(dtype: torch.dtype) -> None:
    for task, outputs, target in (
        (Classification(), LOGITS, LABELS),
        (Segmentation(), *_maps()),
        (Restoration(), photos(2) + 0.003, photos(2)),
    ):
        half = outputs.to(dtype)
        loss = task.loss(half, target)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, task.loss(half.float(), target))
        assert task.loss(outputs.double(), target).dtype == torch.float64
    many = torch.zeros(1, 2, 300, 300, dtype=dtype)  # 90000 pixels: a half-precision sum would overflow
    torch.testing.assert_close(
        Segmentation().loss(many, torch.zeros(1, 300, 300, dtype=torch.long)), torch.tensor([math.log(2)])
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_integer_dtype(dtype: torch.dtype) -> None:
    maps, target = _maps()
    assert torch.equal(Segmentation().loss(maps, target.to(dtype)), Segmentation().loss(maps, target))
    assert torch.equal(Segmentation().correct(maps, target.to(dtype)), Segmentation().correct(maps, target))
    assert torch.equal(Classification().loss(LOGITS, LABELS.to(dtype)), Classification().loss(LOGITS, LABELS))
    checks.check_task(Segmentation(), maps, target.to(dtype))
    checks.check_task(Classification(), LOGITS, LABELS.to(dtype))


@pytest.mark.parametrize(
    ("task", "outputs", "target", "kind", "message"),
    [
        (Classification(), LOGITS, LABELS + 1, ValueError, r"target: expected labels 0\.\.4, got 1\.\.5"),
        (Classification(), LOGITS, LABELS - 1, ValueError, r"target: expected labels 0\.\.4, got -1\.\.3"),
        (Classification(), LOGITS, LABELS - 100, ValueError, r"target: expected labels 0\.\.4, got -100\.\.-96"),
        (Classification(), LOGITS, LABELS.float(), TypeError, r"target: expected integer labels, got torch\.float32"),
        (Classification(), LOGITS, LABELS > 1, TypeError, r"target: expected integer labels, got torch\.bool"),
        (Classification(), LOGITS, LABELS[:3], ValueError, r"target: expected labels \[4\] for outputs \[4, 5\], got \[3\]"),
        (Classification(), LOGITS, LOGITS.long(), ValueError, r"target: expected labels \[4\].*got \[4, 5\]"),
        (Classification(), MAPS, LABELS[:3], ValueError, r"outputs: expected logits \[N, classes\], got \[3, 5, 6, 7\]"),
        (Segmentation(), MAPS, TARGET + 1, ValueError, r"target: expected labels 0\.\.4 or 255 \(ignored\), got 1\.\.5"),
        (Segmentation(), MAPS, TARGET - 1, ValueError, r"target: expected labels 0\.\.4 or 255 \(ignored\), got -1\.\.3"),
        (Segmentation(), MAPS, TARGET.float(), TypeError, r"target: expected integer labels, got torch\.float32"),
        (Segmentation(), MAPS, TARGET[:, None], ValueError, r"expected labels \[3, 6, 7\].*got \[3, 1, 6, 7\]"),
        (Segmentation(), MAPS, TARGET[:, :5], ValueError, r"expected labels \[3, 6, 7\].*got \[3, 5, 7\]: resize"),
        (Segmentation(), LOGITS, LABELS, ValueError, r"outputs: expected logits \[N, classes, H, W\], got \[4, 5\]"),
        (Restoration(), photos(2), photos(3), ValueError, r"outputs: expected images like the target \[3, 3, 16, 20\]"),
        (Restoration(), photos(2), TARGET, ValueError, r"target: expected shape \[N, C, H, W\]"),
        (Restoration(), LOGITS, photos(4), ValueError, r"outputs: expected shape \[N, C, H, W\], got \[4, 5\]"),
        (Restoration(), photos(2), photos(2).long(), TypeError, "target: expected a floating dtype"),
    ],
)
def test_what_does_not_fit_is_refused_by_check_and_by_loss(task, outputs, target, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        task.check(outputs, target)
    with pytest.raises(kind, match=message):
        task.loss(outputs, target)


def test_values_are_refused_by_check() -> None:
    images = photos(2)
    with pytest.raises(ValueError, match=r"target: expected values in \[0, 1\], got \[.*\]: divide by 255"):
        Restoration().check(images, images * 255)
    with pytest.raises(ValueError, match="outputs: expected finite values"):
        Restoration().check(images / 0, images)


def test_goals_refuse_images_as_labels() -> None:
    for task in (Classification(), Segmentation()):
        with pytest.raises(TypeError, match="target: expected integer labels, got torch.float32: this task compares classes"):
            task.untargeted(photos())
        with pytest.raises(TypeError, match="wanted: expected integer labels"):
            task.targeted(photos())


@pytest.mark.parametrize("floor", [0.0, -0.5, 1.5, float("nan")])
def test_wrong_floors(floor: float) -> None:
    with pytest.raises(ValueError, match=r"floor: expected a share in \(0, 1\], got"):
        Segmentation(floor=floor)


def test_pictures() -> None:
    sure = F.one_hot(TARGET, 5).permute(0, 3, 1, 2).float()
    colours = [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [51, 102, 204]]
    picture = Segmentation(palette=colours).render(sure, photos(3, 6, 7))
    torch.testing.assert_close(picture, torch.tensor(colours)[TARGET].permute(0, 3, 1, 2) / 255)
    own = Segmentation().render(sure, photos(3, 6, 7)).permute(0, 2, 3, 1)
    assert len({tuple(colour.tolist()) for colour in own.reshape(-1, 3)}) == 5
    bar = Classification().render(torch.tensor([[0.0, 0.0]]), photos(1, 32, 20))[0]
    assert torch.equal(bar[:, -2:, :10], torch.ones(3, 2, 10))  # probability 1/2: half the width
    assert torch.equal(bar[:, -2:, 10:], torch.zeros(3, 2, 10))
    assert torch.equal(bar[:, :-2], photos(1, 32, 20)[0, :, :-2])
    torch.testing.assert_close(
        Restoration().render(photos(1)[:, :1] * 2, photos(1)), (photos(1)[:, :1] * 2).clamp(0, 1).expand(-1, 3, -1, -1)
    )


@pytest.mark.parametrize("name", ["classification", "segmentation", "restoration"])
def test_a_model_that_gives_nan_is_named(name: str) -> None:
    shapes = {"classification": ((2, 3), (2,)), "segmentation": ((2, 3, 4, 5), (2, 4, 5)), "restoration": ((2, 3, 4, 5),) * 2}
    outputs, target = torch.full(shapes[name][0], float("nan")), torch.zeros(shapes[name][1])
    with pytest.raises(ValueError, match="expected finite values"):
        rr.Task.named(name)().check(outputs, target if name == "restoration" else target.long())
