"""What the base of all attacks keeps for them: one tensor, finite images, the ball in half precision, faint gradients."""

import pytest
import torch
from torch import Tensor, nn
from toys import Linear2, PixelSegmenter, photos

import robustrestore as rr

LOW = [torch.float16, torch.bfloat16]


class _Add(rr.Attack):
    """Adds what it was made with."""

    def __init__(self, threat: rr.Threat, change: Tensor) -> None:
        self.threat, self.change = threat, change

    def run(self, model: object, images: Tensor, objective: rr.Objective) -> Tensor:
        return images + self.change


def _add(threat: rr.Threat, images: Tensor, change: Tensor) -> Tensor:
    return _Add(threat, change)(lambda x: x, images, rr.tasks.Restoration().untargeted(images))


def test_outputs_that_are_no_tensor_name_the_adapter() -> None:
    images = photos()
    goal = rr.tasks.Restoration().untargeted(images)
    with pytest.raises(TypeError, match=r"expected one tensor, got dict: wrap the model, Adapted\(model, pick="):
        rr.attacks.PGD(rr.Linf(0.1))(lambda x: {"out": x}, images, goal)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_attack_that_gives_no_numbers_is_named(value: float) -> None:
    with pytest.raises(ValueError, match="_Add: expected run to give finite images, got NaN or infinity"):
        _add(rr.Linf(0.1), photos(), torch.tensor(value))


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("threat", [rr.Linf(4 / 255), rr.Linf(0.1), rr.L2(0.3), rr.L2(2.0)], ids=repr)
def test_half_precision_stays_in_the_ball(threat: rr.Threat, dtype: torch.dtype) -> None:
    own = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 96, 96, generator=own).to(dtype)
    change = torch.randn(images.shape, generator=own)
    change[1] = change[1].sign()
    change[2] *= torch.rand(change[2].shape, generator=own) < 0.1
    found = _add(threat, images, change)
    moved = threat.size(found.double() - images.double())
    assert (moved <= threat.eps * (1 + 1e-6)).all()
    assert (moved > 0.5 * threat.eps).all()  # and is not just the original


def test_rounding_that_lengthens_a_change_twice_does_not_leave_the_ball() -> None:
    """Many entries just above half a step of bfloat16 and still so when shortened, the rest just below."""
    own, eps, step = torch.Generator().manual_seed(0), 1.0, 2**-8
    images = torch.full((1, 3, 274, 274), 0.75, dtype=torch.bfloat16)
    change = torch.where(torch.rand(images.shape, generator=own) < 0.348, 0.62, 0.49) * step
    for length in torch.linspace(0.9, 1.1, 41):
        found = _add(rr.L2(eps), images, change / change.norm() * eps * length)
        assert (found.double() - images.double()).norm() <= eps * (1 + 1e-6), float(length)


def _sure(images: Tensor) -> Tensor:
    return PixelSegmenter()(images)


def _wrong(images: Tensor) -> Tensor:
    score = 8 * (images[:, 1] - images[:, 0]).flatten(1).mean(1)
    return torch.stack([score, -score], dim=1)


@pytest.mark.parametrize("dtype", [*LOW, torch.float32])
@pytest.mark.parametrize(("model", "task"), [(_sure, "segmentation"), (_wrong, "classification")], ids=["sure", "wrong"])
def test_a_gradient_too_small_for_half_precision_is_followed(model: rr.attack.Model, task: str, dtype: torch.dtype) -> None:
    """A mean over many pixels, sure of itself; and a classifier that is wrong, whose steep loss must not overflow instead."""
    images = torch.full((2, 3, 128, 128), 0.2, dtype=dtype)
    images[:, 0] = 0.8
    target = torch.zeros((2, 128, 128) if task == "segmentation" else (2,), dtype=torch.long)
    found = rr.attacks.FGSM(rr.Linf(0.1))(model, images, rr.Task.named(task)().untargeted(target))
    away = (found - images).float() * (1 if task == "classification" else -1)
    assert (away[:, 0] > 0.05).all()
    assert (away[:, 1] < -0.05).all()


class _InPlace(nn.Module):
    """Normalises its input as many models do, and that where it stands."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Linear2()

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images.sub_(0.1).div_(0.8))


IN_PLACE = pytest.raises(ValueError, match=r"model: expected one that leaves its input as it is.*in place.*images.clone\(\)")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "attack",
    [rr.attacks.PGD(rr.Linf(0.1), steps=2), rr.attacks.Square(rr.Linf(0.1), 5), rr.attacks.ConstantShift(rr.Linf(0.1))],
    ids=lambda attack: type(attack).__name__,
)
def test_a_model_that_works_on_its_input_in_place_is_named(attack: rr.Attack, dtype: torch.dtype) -> None:
    images = photos(2, 6, 6).to(dtype)
    with IN_PLACE:
        attack(_InPlace().to(dtype), images, rr.tasks.Classification().untargeted(torch.tensor([0, 0])))
    assert torch.equal(images, photos(2, 6, 6).to(dtype))
