"""Losses of restoration: closed forms on linear restorers, finite differences, the zero gradient at the clean output."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import Gain, photos

import robustrestore as rr
from robustrestore.losses.region import degraded_region
from robustrestore.search import ascent

EPS = 4 / 255
TASK = rr.tasks.Restoration()


class Smooth(nn.Module):
    """A denoiser-like restorer: a 3 x 3 mean."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(nn.functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


class Derain(nn.Module):
    """Takes off a share of what is brighter than 0.7: the 'rain'."""

    def __init__(self, share: float = 0.9) -> None:
        super().__init__()
        self.share = share

    def forward(self, images: Tensor) -> Tensor:
        return images - self.share * (images - 0.7).clamp(min=0)


class Maps(nn.Module):
    """Two differentiable feature maps."""

    def __init__(self) -> None:
        super().__init__()
        own = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(5, 3, 3, 3, generator=own))
        self.second = nn.Parameter(torch.randn(4, 5, 3, 3, generator=own))
        self.drop = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> list[Tensor]:
        low = torch.tanh(nn.functional.conv2d(images, self.first))
        return [low, torch.tanh(nn.functional.conv2d(self.drop(low), self.second, stride=2))]


class Identity(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images


LOSSES = [
    rr.losses.L1(),
    rr.losses.Dissimilarity(),
    rr.losses.CleanOutput(),
    rr.losses.Undo(),
    rr.losses.DegradedRegion(0.02),
    rr.losses.IntactRegion(0.02),
    rr.losses.Perceptual(Maps().double()),
    rr.losses.Perceptual(Maps().double(), penalty=2.0),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradients_equal_finite_differences(loss: rr.Loss) -> None:
    images, target = photos(2, 12, 13).double(), photos(2, 12, 13).double().flip(3)
    model = Smooth()
    goal = loss(model, images, TASK.untargeted(target))
    outputs = model(images) + 0.03 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leaf = outputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(goal.gain(leaf).sum(), leaf)
    assert (gradient != 0).any()
    way = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slope = (goal.gain(outputs + 1e-6 * way) - goal.gain(outputs - 1e-6 * way)) / 2e-6
    torch.testing.assert_close((gradient * way).flatten(1).sum(1), slope, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_class_tasks_are_refused_and_a_part_of_the_batch_has_the_same_values(loss: rr.Loss) -> None:
    images, target = photos(3, 12, 13).double(), photos(3, 12, 13).double().flip(3)
    labels = torch.zeros(3, dtype=torch.long)
    with pytest.raises(TypeError, match="expected a task whose answers are images, got one with classes"):
        loss(lambda x: x.flatten(1)[:, :4], images, rr.tasks.Classification().untargeted(labels))
    goal, outputs = loss(Smooth(), images, TASK.untargeted(target)), photos(3, 12, 13).double().sqrt()
    index = torch.tensor([2, 0])
    torch.testing.assert_close(goal.at(index).gain(outputs[index]), goal.gain(outputs)[index])
    torch.testing.assert_close(goal.mirrored().gain(outputs), -goal.gain(outputs))


def test_closed_values() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    outputs, model = images + 0.1, Gain(0.8)
    goal = TASK.untargeted(images - 0.1)
    torch.testing.assert_close(rr.losses.L1()(model, images, goal).gain(outputs), torch.full((2,), 0.2))
    torch.testing.assert_close(rr.losses.CleanOutput()(model, images, goal).gain(outputs), torch.full((2,), 0.04))
    torch.testing.assert_close(rr.losses.Undo()(model, images, goal).gain(outputs), torch.full((2,), -0.01))


@pytest.mark.parametrize(
    "loss", [rr.losses.L1(), rr.losses.Dissimilarity(), rr.losses.DegradedRegion(), rr.losses.Perceptual(Maps())], ids=repr
)
def test_a_targeted_goal_is_approached(loss: rr.Loss) -> None:
    images, wanted, model = photos(2), photos(2).flip(2), Derain()
    goal = TASK.targeted(wanted)
    climbed = loss(model, images, goal)
    near, far = wanted + 0.01 * (model(images) - wanted), model(images)
    assert (climbed.gain(near) >= climbed.gain(far)).all()
    assert (climbed.gain(near) > climbed.gain(far)).any()
    torch.testing.assert_close(climbed.gain(far), -loss(model, images, TASK.untargeted(wanted)).gain(far))


def test_l1_reaches_the_corner_of_a_linear_restorer() -> None:
    images, model = photos(2), Gain(0.9)
    target = images * 0.9 - 0.1  # the output is above it everywhere
    found = rr.attacks.PGD(rr.Linf(EPS), steps=12, loss=rr.losses.L1())(model, images, TASK.untargeted(target))
    torch.testing.assert_close(found, images + EPS, atol=1e-6, rtol=0)


def test_clean_output_has_no_gradient_at_the_clean_image_so_the_start_matters() -> None:
    images, model, loss = photos(2), Smooth(), rr.losses.CleanOutput()
    goal = TASK.untargeted(model(images))
    _, gradient = ascent(model, images, loss(model, images, goal))
    assert (gradient == 0).all()
    still = rr.attacks.PGD(rr.Linf(EPS), steps=5, random_start=False, loss=loss)
    assert torch.equal(still(model, images, goal), images)
    assert torch.equal(rr.attacks.FGSM(rr.Linf(EPS))(model, images, goal), images)
    found = rr.attacks.PGD(rr.Linf(EPS), steps=20, loss=loss)(model, images, goal)
    noise = rr.Linf(EPS).random(images, torch.Generator().manual_seed(0))
    assert (goal.gain(model(found)) > 4 * goal.gain(model(noise))).all()


def test_undo_brings_the_rain_back() -> None:
    own = torch.Generator().manual_seed(6)
    clean = photos(2) * 0.7
    rainy = torch.where(torch.rand(2, 1, 16, 20, generator=own) < 0.2, 0.78, clean)
    model, attack = Derain(0.5), rr.attacks.PGD(rr.Linf(24 / 255), steps=120, step=1e-3, random_start=False)

    def distance(images: Tensor) -> Tensor:
        return (model(images) - rainy).square().flatten(1).mean(1)

    undone = attack(model, rainy, rr.losses.Undo()(model, rainy, TASK.untargeted(clean)))
    assert (distance(undone) < 1e-2 * distance(rainy)).all()
    best = torch.where(rainy > 0.77, 0.86, rainy)  # 0.86 - (0.86 - 0.7) / 2 is the rain's 0.78
    torch.testing.assert_close(undone, best, atol=2e-3, rtol=0)
    assert torch.equal(undone, attack(model, rainy, TASK.targeted(rainy)))
    beside = attack.replace(loss=rr.losses.Undo())(model, rainy, TASK.untargeted(clean))  # kept by the error to the truth
    assert (TASK.loss(model(beside), clean) > TASK.loss(model(rainy), clean)).all()


def test_regions_are_complements_in_any_channel_and_count_only_themselves() -> None:
    images = torch.full((2, 3, 4, 5), 0.5)
    images[0, 1, 0, 0], images[1, 2, 3, 3] = 0.9, 0.99
    model = Derain()
    region = degraded_region(model, images, 10 / 255)
    assert region.sum() == 2
    assert region[0, 0, 0, 0]
    assert region[1, 0, 3, 3]
    goal, outputs = TASK.untargeted(images), images.clone()
    inside, outside = (loss(model, images, goal) for loss in (rr.losses.DegradedRegion(), rr.losses.IntactRegion()))
    outputs[0, :, 0, 0] += 0.1
    torch.testing.assert_close(inside.gain(outputs), torch.tensor([0.01, 0.0]))
    torch.testing.assert_close(outside.gain(outputs), torch.zeros(2))
    torch.testing.assert_close(outside.gain(images + 0.1), torch.full((2,), 0.01))


def test_an_empty_region_gives_zero_and_no_gradient() -> None:
    images = photos(1)
    goal = rr.losses.DegradedRegion()(Identity(), images, TASK.untargeted(images * 0.5))
    leaf = images.clone().requires_grad_()
    gain = goal.gain(leaf)
    (gradient,) = torch.autograd.grad(gain.sum(), leaf)
    assert float(gain.detach()) == 0
    assert (gradient == 0).all()


def test_perceptual_is_the_mean_angle_of_features() -> None:
    outputs, target = photos(2), photos(2).flip(3)
    goal = rr.losses.Perceptual(Identity(), penalty=3.0)(Identity(), outputs, TASK.untargeted(target))
    cosine = nn.functional.cosine_similarity(outputs, target, dim=1)
    distance = (2 - 2 * cosine).flatten(1).mean(1)  # |u - v|^2 of unit vectors
    torch.testing.assert_close(goal.gain(outputs), distance - 3 * TASK.loss(outputs, target), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(goal.gain(target), torch.zeros(2), atol=1e-6, rtol=0)


def test_perceptual_ignores_brightness_where_the_squared_error_does_not() -> None:
    images = photos(2) * 0.5
    goal = rr.losses.Perceptual(Identity())(Identity(), images, TASK.untargeted(images))
    assert (goal.gain(images * 1.5) < 1e-5).all()
    assert (goal.gain(images.flip(1)) > 1e-3).all()


def test_perceptual_looks_in_evaluation_mode_and_leaves_modes_and_types() -> None:
    features = Maps().train()
    images = photos(1).double()
    goal = rr.losses.Perceptual(features)(Identity(), images, TASK.untargeted(images.flip(3)))
    assert torch.equal(goal.gain(images), goal.gain(images))
    assert features.training
    assert features.drop.training
    zero = torch.zeros(1, 3, 16, 20, requires_grad=True)
    (gradient,) = torch.autograd.grad(goal.gain(zero).sum(), zero)
    assert gradient.isfinite().all()


def test_lpips_raises_features_more_than_squared_error_does() -> None:
    images, model = photos(2), Smooth()
    goal, loss = TASK.untargeted(photos(2).flip(3)), rr.losses.Perceptual(Maps(), penalty=25.0)
    judge = rr.losses.Perceptual(Maps())(model, images, goal)
    by_features = rr.attacks.PGD(rr.Linf(EPS), steps=10)(model, images, judge)
    by_error = rr.attacks.PGD(rr.Linf(EPS), steps=10)(model, images, goal)
    assert (judge.gain(model(by_features)) > judge.gain(model(by_error))).all()
    gentle = loss(model, images, goal)
    held = rr.attacks.PGD(rr.Linf(EPS), steps=10)(model, images, gentle)
    assert (goal.gain(model(held)) < goal.gain(model(by_features))).all()


def test_lpips_without_its_weights_says_what_to_do_and_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    images = photos(1)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("a download was started"))
    goal = rr.losses.Perceptual()(Identity(), images, TASK.untargeted(images))
    with pytest.raises(FileNotFoundError, match="nothing is downloaded: run torchvision"):
        goal.gain(images)


def test_lpips_is_that_of_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("torchvision").models
    from robustrestore.losses import perceptual

    (tmp_path / "checkpoints").mkdir()
    with rr.seeded(0):
        state = models.alexnet(weights=None).state_dict()
    torch.save(state, tmp_path / "checkpoints" / Path(models.AlexNet_Weights.DEFAULT.url).name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(models._api.WeightsEnum, "get_state_dict", lambda *a, **k: state)
    perceptual._lpips.cache_clear()
    try:
        outputs, target = photos(2, 40, 44), photos(2, 40, 44).flip(3)
        goal = rr.losses.Perceptual()(Identity(), outputs, TASK.untargeted(target))
        from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

        for k in range(2):
            known = learned_perceptual_image_patch_similarity(outputs[k : k + 1], target[k : k + 1], normalize=True)
            torch.testing.assert_close(goal.gain(outputs)[k], known.detach())
        assert (goal.gain(outputs) > 0).all()
    finally:
        perceptual._lpips.cache_clear()


def test_slips_are_named() -> None:
    images, model = photos(1), Identity()
    with pytest.raises(ValueError, match="threshold: expected"):
        rr.losses.DegradedRegion(-0.1)
    with pytest.raises(TypeError, match="features: expected"):
        rr.losses.Perceptual("alex")
    with pytest.raises(ValueError, match="penalty: expected a weight"):
        rr.losses.Perceptual(Identity(), penalty=-1)
    with pytest.raises(ValueError, match="penalty: expected 0 for a targeted goal"):
        rr.losses.Perceptual(Identity(), penalty=1.0)(model, images, TASK.targeted(images))
    half = TASK.untargeted(images[..., :8, :10])
    undo = rr.losses.Undo()(lambda x: x[..., :8, :10], images, half)
    with pytest.raises(ValueError, match="expected the shape of the input"):
        undo.gain(images[..., :8, :10])
    with pytest.raises(ValueError, match="features: expected one or several"):
        rr.losses.Perceptual(nn.Flatten(0))(model, images, TASK.untargeted(images))


def test_half_precision_is_measured_in_full() -> None:
    images = photos(1).half()
    for loss in (
        rr.losses.L1(),
        rr.losses.CleanOutput(),
        rr.losses.Undo(),
        rr.losses.DegradedRegion(),
        rr.losses.IntactRegion(),
    ):
        goal = loss(Gain(0.9).half(), images, TASK.untargeted(images))
        assert goal.gain(images).dtype == torch.float32
        assert dataclasses.replace(goal, sign=-1.0).gain(images).isfinite().all()
