"""Threats against closed forms: projections, uniform starts, steepest changes, and the edges of what is allowed."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from toys import photos

import robustrestore as rr
from robustrestore import checks
from robustrestore.modes import generator, seeded

BOTH = [rr.Linf(0.1), rr.L2(0.4)]


def delta(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def grey(*shape: int) -> Tensor:
    return torch.full(shape, 0.5)


@pytest.mark.parametrize("threat", BOTH, ids=repr)
def test_the_public_promises(threat: rr.Threat) -> None:
    checks.check_threat(threat)


class _Loose(rr.Linf):
    def limit(self, delta: Tensor) -> Tensor:
        return delta.clamp(-2 * self.eps, 2 * self.eps)


class _Short(rr.L2):
    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient


class _Creeping(rr.Linf):
    def limit(self, delta: Tensor) -> Tensor:
        return delta.clamp(-self.eps, self.eps) * 0.9


@pytest.mark.parametrize(
    ("threat", "promise"),
    [(_Loose(0.1), "changes stay in the ball"), (_Short(0.4), "steepest changes have size 1"), (_Creeping(0.1), "twice")],
    ids=lambda v: type(v).__name__,
)
def test_the_checks_find_what_is_broken(threat: rr.Threat, promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        checks.check_threat(threat)


def test_linf_cuts_each_entry() -> None:
    torch.testing.assert_close(rr.Linf(0.1).limit(delta(0.3, -0.2, 0.05, 0.0)), delta(0.1, -0.1, 0.05, 0.0))


def test_l2_shrinks_what_is_too_long_and_nothing_else() -> None:
    many = torch.cat([delta(3.0, -4.0), delta(0.3, -0.4), delta(0.0, 0.0)])
    torch.testing.assert_close(rr.L2(1.0).limit(many), torch.cat([delta(0.6, -0.8), delta(0.3, -0.4), delta(0.0, 0.0)]))


def test_sizes() -> None:
    many = torch.cat([delta(3.0, -4.0), delta(0.0, 0.5)])
    torch.testing.assert_close(rr.Linf(1).size(many), torch.tensor([4.0, 0.5]))
    torch.testing.assert_close(rr.L2(1).size(many), torch.tensor([5.0, 0.5]))


def test_projection_keeps_the_box() -> None:
    original = torch.tensor([0.95, 0.02, 0.5]).view(1, 1, 1, 3)
    found = rr.Linf(0.1).project(original + delta(0.5, -0.5, 0.05), original)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.55]).view(1, 1, 1, 3))
    found = rr.L2(0.5).project(original + delta(3.0, 0.0, 4.0), original)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.02, 0.9]).view(1, 1, 1, 3))


@pytest.mark.parametrize("threat", BOTH, ids=repr)
def test_what_is_allowed_is_left_as_it_is(threat: rr.Threat) -> None:
    original = photos()
    inside = original + threat.eps * 0.9 * threat.steepest(torch.randn(original.shape, generator=generator(0)))
    inside = inside.clamp(0, 1)
    torch.testing.assert_close(threat.project(inside, original), inside, atol=1e-6, rtol=0)


def test_linf_starts_are_uniform() -> None:
    change = rr.Linf(0.1).random(grey(4, 3, 32, 32), generator(0)) - 0.5
    assert stats.kstest(change.flatten().numpy(), stats.uniform(-0.1, 0.2).cdf).pvalue > 1e-3
    assert change.abs().max() <= 0.1 + 1e-6
    assert abs(change.mean()) < 4 * 0.1 / math.sqrt(3 * change.numel())


def test_l2_starts_are_uniform_in_the_ball() -> None:
    change = (rr.L2(0.4).random(grey(4000, 1, 1, 2), generator(0)) - 0.5).view(-1, 2)
    radius, angle = change.norm(dim=1) / 0.4, torch.atan2(change[:, 1], change[:, 0])
    assert radius.max() <= 1 + 1e-5
    assert stats.kstest(radius.square().numpy(), "uniform").pvalue > 1e-3  # area grows with the square of the radius
    assert stats.kstest(angle.numpy(), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3


def test_l2_starts_in_many_dimensions_lie_near_the_surface() -> None:
    threat = rr.L2(0.4)
    change = threat.random(grey(500, 3, 4, 4), generator(0)) - 0.5
    assert stats.kstest((threat.size(change) / 0.4).numpy() ** 48, "uniform").pvalue > 1e-3
    assert (change > 0).float().mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("threat", BOTH, ids=repr)
def test_random_starts_differ_repeat_and_stay_in_the_box(threat: rr.Threat) -> None:
    dark = torch.full((3, 3, 8, 8), 0.01)
    found = threat.random(dark, generator(0))
    assert torch.equal(found, threat.random(dark, generator(0)))
    assert not torch.equal(found, threat.random(dark, generator(1)))
    assert not torch.equal(found[0], found[1])
    assert found.min() == 0
    assert torch.equal(dark, torch.full((3, 3, 8, 8), 0.01))
    with seeded(5):
        first = threat.random(dark)
    with seeded(5):
        assert torch.equal(first, threat.random(dark))


@pytest.mark.parametrize(("threat", "dual"), [(rr.Linf(0.1), 1), (rr.L2(0.4), 2)], ids=["Linf", "L2"])
def test_nothing_rises_faster_than_steepest(threat: rr.Threat, dual: int) -> None:
    gradient = torch.randn(2, 3, 4, 4, generator=generator(2))
    rise = (gradient * threat.steepest(gradient)).flatten(1).sum(1)
    torch.testing.assert_close(rise, gradient.flatten(1).norm(p=dual, dim=1))  # Hölder's bound, reached
    torch.testing.assert_close(threat.size(threat.steepest(gradient)), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("threat", BOTH, ids=repr)
def test_a_zero_gradient_moves_nothing(threat: rr.Threat, dtype: torch.dtype) -> None:
    zeros = torch.zeros(2, 3, 4, 4, dtype=dtype)
    assert torch.equal(threat.steepest(zeros), zeros)
    assert torch.equal(threat.limit(zeros), zeros)


@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1e-13, 1e-4, 1e20, 1e36])
@pytest.mark.parametrize("threat", BOTH, ids=repr)
def test_a_faint_gradient_has_a_direction_too(threat: rr.Threat, scale: float) -> None:
    # A model that is sure of itself gives gradients of 1e-20: no defence.
    gradient = torch.randn(2, 3, 4, 4, generator=generator(2))
    torch.testing.assert_close(threat.steepest(gradient * scale), threat.steepest(gradient))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("kind", [rr.Linf, rr.L2])
def test_eps_0_allows_the_original_only(kind: type[rr.Threat], dtype: torch.dtype) -> None:
    original, threat = photos().to(dtype), kind(0)
    assert torch.equal(threat.project(original + 0.3, original), original)
    assert torch.equal(threat.project(original, original), original)
    assert torch.equal(threat.random(original, generator(0)), original)


@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [rr.Linf, rr.L2])
def test_sizes_that_make_no_sense(kind: type[rr.Threat], eps: float) -> None:
    with pytest.raises(ValueError, match=rf"eps: expected a finite size >= 0 in units of \[0, 1\] images, got {eps}"):
        kind(eps)


@pytest.mark.parametrize("threat", BOTH, ids=repr)
def test_dtype_and_empty_batches(threat: rr.Threat) -> None:
    double = photos().double()
    assert threat.random(double, generator(0)).dtype == torch.float64
    assert threat.project(double + 1, double).dtype == torch.float64
    empty = photos()[:0]
    assert threat.random(empty, generator(0)).shape == empty.shape
    assert threat.project(empty, empty).shape == empty.shape
    assert threat.steepest(empty).shape == empty.shape
