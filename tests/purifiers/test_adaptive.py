"""A level for each image: it follows each image's attack, and its gradients are what it says they are."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from toys_diffusion import GaussianPrior

import robustrestore as rr
from robustrestore import checks, diffusion
from robustrestore.calibrate import select_noise_level
from robustrestore.feature import Features, Gaussian
from robustrestore.purifiers import Adaptive, Blur, Diffusion

STD, SIDE = 0.1, 8
LEVELS = [0.0, 0.03, 0.06, 0.09, 0.12, 0.16, 0.2]


class Pixels(nn.Module):
    """Every pixel is a feature; batch norm on the way that must not be fed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.flat, self.head = nn.BatchNorm2d(1, affine=False), nn.Flatten(), nn.Linear(SIDE * SIDE, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.flat(self.norm(images)))


def _drawn(count: int, seed: int) -> Tensor:
    own = torch.Generator().manual_seed(seed)
    return (0.5 + STD * torch.randn(count, 1, SIDE, SIDE, generator=own)).clamp(0, 1)


def _attacked(clean: Tensor, strengths: list[float]) -> Tensor:
    own = torch.Generator().manual_seed(9)
    size = torch.tensor(strengths)[torch.arange(len(clean)) % len(strengths)].view(-1, 1, 1, 1)
    return (clean + size * torch.randn(clean.shape, generator=own)).clamp(0, 1)


def _purifier(seed: int | None = None) -> Diffusion:
    return Diffusion(GaussianPrior(0.5, STD), steps=1, sampler=diffusion.OneStep(), seed=seed)


@pytest.fixture(scope="module")
def features() -> Features:
    return Features(Pixels().eval(), "flat")


@pytest.fixture(scope="module")
def reference(features: Features) -> Gaussian:
    return features.statistics(_drawn(8000, 1))


@pytest.fixture
def adaptive(features: Features, reference: Gaussian) -> Adaptive:
    return Adaptive.of([_purifier(0).replace(sigma=level) for level in LEVELS], features, reference)


def test_the_score_is_the_distance_from_the_clean_shell(features: Features, reference: Gaussian) -> None:
    part, images = Adaptive.of([Blur()], features, reference, ridge=0.0), _drawn(5, 3)
    gap = features(images).double() - reference.mean
    squared = (gap @ reference.covariance.inverse() * gap).sum(1)
    torch.testing.assert_close(part.score(images).double(), (squared / SIDE**2 - 1).abs(), atol=1e-4, rtol=1e-4)
    flat = torch.full_like(images, 0.5)
    assert (part.score(flat) > 0.9).all()  # smoothed beyond recognition: no distance at all, and yet not clean
    assert part.score(_drawn(500, 4)).mean() < 0.2


def test_stronger_attacks_get_higher_levels(adaptive: Adaptive) -> None:
    clean = _drawn(400, 2)
    picks = [adaptive.choose(_attacked(clean, [size])).float().mean() for size in (0.0, 0.05, 0.1, 0.15, 0.2)]
    assert all(one + 0.3 < other for one, other in pairwise(picks))
    assert picks[0] < 1
    assert picks[-1] > 3.5


def test_it_pays_where_strengths_differ_and_not_where_they_do_not(features: Features, reference: Gaussian) -> None:
    """What docs say of it: mean squared error to clean, against ANLS's one level for the set."""
    clean, shares = _drawn(1500, 2), {}
    part = Adaptive.of([_purifier().replace(sigma=level) for level in LEVELS], features, reference)
    for name, strengths in {"mixed": [0.0, 0.05, 0.1, 0.15], "same": [0.1]}.items():
        attacked = _attacked(clean, strengths)
        level = select_noise_level(_purifier(), features, attacked, reference, LEVELS).chosen
        with rr.seeded(0), torch.no_grad():
            own, one = ((stage(attacked) - clean).square().mean() for stage in (part, _purifier().replace(sigma=level)))
        shares[name] = float(own / one)
    assert shares["mixed"] < 0.85
    assert 0.97 < shares["same"] < 1.1


def test_each_image_comes_from_the_chosen_stage_whatever_its_batch(adaptive: Adaptive) -> None:
    images = _attacked(_drawn(6, 2), [0.0, 0.1, 0.2])
    choice, out = adaptive.choose(images), adaptive(images)
    assert len(set(choice.tolist())) > 1
    for k, index in enumerate(choice.tolist()):
        assert torch.equal(out[k : k + 1], adaptive.stages[index](images[k : k + 1]))
        torch.testing.assert_close(adaptive(images[k : k + 1]), out[k : k + 1], atol=1e-6, rtol=0)


def test_the_gradient_is_that_of_the_chosen_stage(adaptive: Adaptive) -> None:
    images = _attacked(_drawn(4, 2), [0.0, 0.1, 0.2])
    weight = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    leaf = images.clone().requires_grad_()
    (found,) = torch.autograd.grad((weight * adaptive(leaf)).sum(), leaf)
    for k, index in enumerate(adaptive.choose(images).tolist()):
        one = images[k : k + 1].clone().requires_grad_()
        (wanted,) = torch.autograd.grad((weight[k : k + 1] * adaptive.stages[index](one)).sum(), one)
        torch.testing.assert_close(found[k : k + 1], wanted, atol=1e-6, rtol=0)


def test_the_blend_is_differentiable_throughout_and_tends_to_the_choice(features: Features, reference: Gaussian) -> None:
    net = Pixels().double().eval()
    stages = [_purifier(0).replace(sigma=level) for level in (0.0, 0.05, 0.1)]
    part = Adaptive.of(stages, Features(net, "flat"), Features(net, "flat").statistics(_drawn(200, 1).double())).double()
    images = (0.4 + 0.2 * _drawn(2, 2)).double()
    soft = part.replace(temperature=0.5)
    assert torch.autograd.gradcheck(soft, images.clone().requires_grad_())
    torch.testing.assert_close(part.replace(temperature=1e-5)(images), part(images), atol=1e-6, rtol=0)
    made, scores = soft.candidates(images)
    wanted = torch.einsum("knchw,kn->nchw", made, torch.softmax(-scores / 0.5, dim=0))
    torch.testing.assert_close(soft(images), wanted)
    assert (soft(images) - part(images)).abs().max() > 1e-3


def test_promises_saving_and_modes(features: Features, adaptive: Adaptive) -> None:
    small = rr.Adapted(nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())).eval()
    seen = Features(small, "model.1", dims=2)
    own = torch.Generator().manual_seed(0)
    part = Adaptive.of([Blur(0.5), Blur(1.5)], seen, seen.statistics(torch.rand(20, 3, 8, 8, generator=own)))
    assert (part.width, part.dims) == (2, 2)
    checks.check_stage(part)
    checks.check_component(part, {"model.model": small.model})
    features.model.train()
    adaptive(_drawn(3, 2))
    assert features.model.training
    assert features.model.norm.num_batches_tracked == 0
    features.model.eval()


def test_statistics_are_not_taken_over_to_what_they_are_not_of(adaptive: Adaptive, features: Features) -> None:
    """The old model's statistics under another model would choose by nothing, and say nothing."""
    for changes in ({"model": Pixels().eval()}, {"module": "norm"}, {"dims": 4}, {"width": 3}, {"model": Pixels(), "dims": 4}):
        with pytest.raises(ValueError, match=f"Adaptive: expected {', '.join(sorted(changes))} as the statistics.*Adaptive.of"):
            adaptive.replace(**changes)
    same = adaptive.replace(model=features.model, module="flat", width=SIDE * SIDE, dims=None, temperature=0.5)
    assert torch.equal(same.whitening, adaptive.whitening)
    bare = Adaptive([Blur()], features.model, "flat", 64)  # without statistics there is nothing to take over
    assert bare.replace(model=Pixels()).model is not features.model


def test_wrong_arguments(features: Features, reference: Gaussian) -> None:
    net = features.model
    with pytest.raises(ValueError, match=r"expected statistics of clean images: make it with Adaptive.of"):
        Adaptive([Blur()], net, "flat", 64)(_drawn(2, 1))
    with pytest.raises(TypeError, match="stages: expected at least one purifier or restorer, got \\[\\]"):
        Adaptive([], net, "flat", 64)
    with pytest.raises(ValueError, match="temperature: expected a finite number >= 0, got -1"):
        Adaptive([Blur()], net, "flat", 64, temperature=-1)
    with pytest.raises(ValueError, match="width: expected a whole number >= 1, got 0"):
        Adaptive([Blur()], net, "flat", 0)
    with pytest.raises(ValueError, match="module: expected a path"):
        Adaptive([Blur()], net, "flatt", 64)
    with pytest.raises(ValueError, match="clean: expected statistics of norm of Pixels"):
        Adaptive.of([Blur()], Features(net, "norm"), reference)
