"""Diagnosis: each warning is said once, and only where it is true."""

import pytest
import torch
from torch import Tensor, nn
from toys import Linear2, PixelSegmenter, photos

import robustrestore as rr
from robustrestore.diagnosis import of_gradients, of_outputs, trivial

PGD = rr.attacks.PGD(rr.Linf(8 / 255), steps=4)


def _labels(images: Tensor) -> Tensor:
    return Linear2()(images).argmax(1)


def _said(model: nn.Module, task: str = "classification") -> list[str]:
    images = photos(8, 12, 12) if task == "restoration" else photos(8, 6, 6)
    target = images if task == "restoration" else _labels(images)
    report = rr.evaluate(rr.DefendedPipeline(model), [(images, target)], rr.Task.named(task)(), [PGD])
    return report.verdicts


class Softmaxed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Linear2()

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images).softmax(1)


class Dicey(Softmaxed):
    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) + 0.5 * torch.randn(len(images), 2)


class Root(Softmaxed):
    """The slope of the root is infinite at the image itself, and its inner part is constant: 0 times infinity."""

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) + (images * 0).flatten(1).sum(1, keepdim=True).sqrt()


class Flat(Softmaxed):
    """So sure of itself that the gradient of its loss is 0."""

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) * 1e6


class OneWay(torch.autograd.Function):
    """Images as they are, and an error on the way back."""

    @staticmethod
    def forward(ctx: object, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> Tensor:
        raise RuntimeError("no way back")


def test_a_sound_model_is_not_accused() -> None:
    assert _said(Linear2()) == []


@pytest.mark.parametrize(
    ("model", "start"),
    [(Softmaxed, "Outputs look like probabilities"), (Dicey, "Not repeatable"), (Root, "No evidence")],
)
def test_each_symptom_is_said_once(model: type[nn.Module], start: str) -> None:
    found = [said for said in _said(model()) if not said.startswith("Weak attack")]
    assert len(found) == 1
    assert found[0].startswith(start)
    assert "of 8 images" in found[0]


def test_an_attack_that_a_constant_shift_beats_is_named() -> None:
    class Lazy(rr.Attack):
        """Does next to nothing."""

        def __init__(self, threat: rr.Threat) -> None:
            self.threat = threat

        def run(self, model: object, images: Tensor, objective: rr.Objective) -> Tensor:
            return images + 1e-4

    class Small(Lazy):
        """Means to."""

        fills = False

    images, threat = photos(8, 12, 12), rr.Linf(8 / 255)
    lazy, pgd = Lazy(threat), rr.attacks.PGD(threat, steps=12)
    small = [Small(threat), rr.attacks.CWRestoration(threat, psnr=45, searches=2, steps=9)]
    for attacks, weak in (([lazy, pgd, *small], [lazy]), (small, [])):
        report = rr.evaluate(rr.DefendedPipeline(nn.Identity()), [(images, images)], rr.tasks.Restoration(), attacks)
        named = [said for said in report.verdicts if said.startswith("Weak attack") and "a constant shift" in said]
        assert len(named) == len(weak)
        assert all(said.startswith(f"Weak attack: bare model, {one!r}:") for said, one in zip(named, weak, strict=True))


def test_dense_probabilities_and_batch_mates() -> None:
    images, task = photos(4), rr.tasks.Segmentation()
    goal = task.untargeted(torch.zeros(4, 16, 20, dtype=torch.long))

    def shares(x: Tensor) -> Tensor:
        return PixelSegmenter()(x).softmax(1)

    def mates(x: Tensor) -> Tensor:
        return PixelSegmenter()(x) + torch.arange(len(x)).view(-1, 1, 1, 1)

    assert of_outputs(shares, images, shares(images), goal)["probabilities"].all()
    assert not of_outputs(PixelSegmenter(), images, PixelSegmenter()(images), goal)["probabilities"].any()
    assert of_outputs(mates, images, mates(images), goal)["unsteady"].all()


def test_statistics_of_the_batch_are_named() -> None:
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    images, goal = photos(4), rr.tasks.Restoration().untargeted(photos(4))
    assert of_outputs(norm, images, norm(images), goal)["unsteady"].all()  # also where the same images come in another order
    norm = nn.BatchNorm2d(3).eval()
    assert not of_outputs(norm, images, norm(images), goal)["unsteady"].any()


def test_a_model_without_a_way_back_gives_no_marks() -> None:
    images, goal = photos(2), rr.tasks.Restoration().untargeted(photos(2) * 0.5)
    for model in (OneWay.apply, Tensor.detach):
        marks = of_gradients(model, images, images, goal)
        assert not marks["blind"].any()
        assert not marks["nan"].any()


@pytest.mark.parametrize("inside", [False, True])
def test_a_black_box_asks_for_no_gradient(inside: bool) -> None:
    class Hidden(rr.Purifier):
        def run(self, images: Tensor) -> Tensor:
            return OneWay.apply(images)

    images = photos(4, 6, 6)
    model = rr.Counted(Flat())  # of which a gradient attack would find none
    threat = rr.Linf(0.02)
    attacks = [rr.attacks.Square(threat, 5), rr.attacks.UniformNoise(threat), rr.attacks.ConstantShift(threat)]
    pipeline = rr.DefendedPipeline(model, [Hidden()] if inside else [])
    report = rr.evaluate(pipeline, [(images, _labels(images))], rr.tasks.Classification(), attacks)
    assert [said for said in report.verdicts if said.startswith("No evidence")] == []
    assert model.forwards > 0
    assert model.backwards == 0
    report = rr.evaluate(rr.DefendedPipeline(model), [(images, _labels(images))], rr.tasks.Classification(), [PGD])
    assert any(said.startswith("No evidence") for said in report.verdicts)


def test_gradients_under_inference_mode() -> None:
    model = Linear2()
    with torch.inference_mode():
        images, goal = photos(2, 6, 6), rr.tasks.Classification().untargeted(torch.tensor([0, 0]))
        marks = of_gradients(model, images, images, goal)
    assert not marks["blind"].any()
    assert not marks["nan"].any()


def test_trivial_changes_have_the_size_of_the_threat() -> None:
    images = photos(2, 6, 6)
    for threat in (rr.Linf(4 / 255), rr.L2(0.3)):
        for attack in trivial(threat).values():
            found = attack(Linear2(), images, rr.tasks.Classification().untargeted(torch.tensor([0, 0])))
            assert float(threat.size(found - images).max()) <= threat.eps * (1 + 1e-5)
            assert not torch.equal(found, images)
