"""ScoreOpt: torch's Adam as reference, the closed forms of linear denoisers, exact second-order gradients."""

import pytest
import torch
from torch import Tensor
from toys import photos
from toys_diffusion import Convolved, GaussianPrior, Oracle

import robustrestore as rr
from robustrestore import diffusion
from robustrestore.purifiers import ScoreOpt


def test_it_is_adam_as_torch_has_it() -> None:
    images, denoiser = photos().double(), Convolved().double().requires_grad_(False)
    oracle = Oracle(torch.zeros(3, 1, 1))
    purifier = ScoreOpt(oracle, sigma=0.2, spread=0.1, iterations=6, lr=0.02, seed=3)
    purifier(images)  # to hear which levels and what noise it draws; they do not depend on the denoiser
    levels = oracle.told
    assert len({round(level, 6) for level in levels}) == 6
    own = torch.Generator().manual_seed(3)
    x = images.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=0.02)
    for level in levels:
        assert float(0.2 + 0.1 * (2 * torch.rand(1, generator=own) - 1)) == pytest.approx(level, rel=1e-6)
        noise = torch.randn(1, *images.shape[1:], generator=own).double()
        adam.zero_grad()
        (denoiser(x + level * noise, level) - x).square().sum().backward()
        adam.step()
    found = ScoreOpt(denoiser, sigma=0.2, spread=0.1, iterations=6, lr=0.02, seed=3)(images)
    assert float((found - images).abs().max()) > 0.05
    torch.testing.assert_close(found, x.detach(), atol=1e-6, rtol=0)


def test_levels_cover_the_spread_and_noise_has_them() -> None:
    images = photos(1, 32, 32)
    oracle = Oracle(images)
    ScoreOpt(oracle, sigma=0.2, spread=0.1, iterations=200)(images)
    told = torch.tensor(oracle.told)
    assert 0.1 <= float(told.min()) < 0.105
    assert 0.295 < float(told.max()) <= 0.3
    assert float(told.mean()) == pytest.approx(0.2, abs=0.015)  # the standard error is 0.004
    shown = torch.stack([shown - images for shown in oracle.shown]).flatten(1)
    torch.testing.assert_close(shown.std(1), told, atol=0, rtol=0.06)
    assert float(torch.corrcoef(shown)[0, 1:].abs().max()) < 0.09


def test_it_goes_where_the_denoiser_leaves_the_image_alone() -> None:
    clean = photos(2)
    own = torch.Generator().manual_seed(1)
    attacked = (clean + 0.06 * torch.randn(clean.shape, generator=own).sign()).clamp(0, 1)
    found = ScoreOpt(Oracle(clean), iterations=60, lr=0.005)(attacked)
    assert float((attacked - clean).abs().mean()) > 0.05
    assert float((found - clean).abs().mean()) < 0.005


def test_one_iteration_moves_every_pixel_by_the_rate() -> None:
    """Adam's first step is the sign: with D(y) = m + w (y - m) that of (1 - w) ((1 - w)(x - m) - w s n)."""
    images, prior = photos().double(), GaussianPrior(0.5, 0.1)
    found = ScoreOpt(prior, sigma=0.2, spread=0.0, iterations=1, lr=0.01, seed=7)(images)
    own = torch.Generator().manual_seed(7)
    torch.rand(1, generator=own)  # for the level
    noise = torch.randn(1, *images.shape[1:], generator=own).double()
    trust = 0.01 / (0.01 + 0.04)
    slope = (1 - trust) * (images - 0.5) - trust * 0.2 * noise
    torch.testing.assert_close(found, images - 0.01 * slope / (slope.abs() + 0.5e-8), atol=1e-6, rtol=0)


def test_the_step_depends_on_neither_batch_nor_size() -> None:
    images = photos(4)
    purifier = ScoreOpt(GaussianPrior(), iterations=5, seed=2)
    whole = purifier(images)
    for k in range(4):
        assert torch.equal(purifier(images[k : k + 1]), whole[k : k + 1])
    torch.manual_seed(4)
    assert torch.equal(purifier(images), whole)
    assert not torch.equal(purifier.replace(seed=3)(images), whole)
    small, large = (torch.full((1, 3, size, size), 0.7) for size in (4, 256))
    moved = [float((ScoreOpt(Oracle(torch.tensor(0.5)), iterations=5)(x) - x).abs().mean()) for x in (small, large)]
    assert moved[0] == pytest.approx(moved[1], rel=1e-4)


def test_without_a_seed_images_and_runs_differ() -> None:
    images = photos(1).expand(2, -1, -1, -1)
    oracle = Oracle(images[:1])
    purifier = ScoreOpt(oracle, iterations=1, seed=None)
    with rr.seeded(5):
        purifier(images)
    with rr.seeded(6):
        purifier(images)
    with rr.seeded(5):
        purifier(images)
    first, second, again = oracle.shown
    assert not torch.equal(first[0], first[1])
    stds = (first - images).flatten(1).std(1)
    assert abs(float(stds[0] - stds[1])) > 1e-3  # each image has a level of its own
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def _gradient(purifier: ScoreOpt, images: Tensor, weight: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    with rr.seeded(3):
        (gradient,) = torch.autograd.grad((weight * purifier(leaf)).sum(), leaf)
    return gradient


@pytest.mark.parametrize("seed", [4, None])
@pytest.mark.parametrize("trained", [True, False])
def test_checkpointed_gradients_are_those_of_plain_autograd(seed: int | None, trained: bool) -> None:
    images, denoiser = photos(2, 6, 5).double(), Convolved().double().requires_grad_(trained)
    weight = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    purifier = ScoreOpt(denoiser, sigma=0.2, iterations=8, lr=0.02, seed=seed)
    found, plain = _gradient(purifier, images, weight), _gradient(purifier.replace(checkpointed=False), images, weight)
    torch.testing.assert_close(found, plain, atol=1e-12, rtol=0)
    assert float((found - weight).norm() / weight.norm()) > 0.01  # not the identity


def test_finite_differences() -> None:
    own = torch.Generator().manual_seed(0)
    images = 0.3 + 0.4 * torch.rand(1, 1, 4, 3, generator=own, dtype=torch.float64)
    purifier = ScoreOpt(Convolved(1).double(), sigma=0.2, iterations=6, lr=0.02)
    assert torch.autograd.gradcheck(purifier, images.requires_grad_(), eps=1e-7, atol=1e-5)


def test_second_order_terms_are_there() -> None:
    """With them cut (the published attack), the gradient would be the identity."""
    images, prior = photos().double(), GaussianPrior(0.5, 0.3)
    weight = torch.ones_like(images)
    assert float((_gradient(ScoreOpt(prior, iterations=10), images, weight) - 1).abs().max()) > 1e-3


def test_a_flat_loss_gives_finite_gradients() -> None:
    images = torch.full((1, 3, 4, 4), 0.5)
    purifier = ScoreOpt(Oracle(torch.tensor(0.5)), iterations=3)
    assert torch.equal(purifier(images), images)
    gradient = _gradient(purifier, images, torch.ones_like(images))
    assert bool(gradient.isfinite().all())


def test_calls() -> None:
    denoiser, images = Convolved(), photos()
    with torch.no_grad():
        ScoreOpt(denoiser, iterations=5)(images)
    assert denoiser.calls == 5
    for checkpointed, calls in ((True, 10), (False, 5)):
        denoiser.calls = 0
        _gradient(ScoreOpt(denoiser, iterations=5, checkpointed=checkpointed), images, torch.ones_like(images))
        assert denoiser.calls == calls


def test_it_works_without_gradients_and_leaves_none_behind() -> None:
    denoiser, images = Convolved(), photos()
    purifier = ScoreOpt(denoiser, iterations=3)
    with torch.no_grad():
        wanted = purifier(images)
    assert not wanted.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(purifier(photos()), wanted, atol=1e-6, rtol=0)
    assert all(weight.grad is None for weight in denoiser.parameters())
    with torch.enable_grad():
        purifier(images).sum().backward()  # the weights want one
    assert float(denoiser.conv1.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("frozen", [True, False])
def test_inference_mode_inside_and_outside(frozen: bool) -> None:
    """Images, weights and buffers that were made under inference_mode keep no graph, and the stage needs one of its own."""
    wanted = ScoreOpt(Convolved(), iterations=3)(photos()).detach()
    with torch.inference_mode():
        images, made_inside = photos(), ScoreOpt(Convolved().requires_grad_(not frozen), iterations=3)
        torch.testing.assert_close(made_inside(images), wanted)
        shared = rr.optimise(made_inside, [diffusion.ChannelsLast])
        torch.testing.assert_close(shared(images), wanted, atol=1e-6, rtol=0)
    outside = ScoreOpt(Convolved().requires_grad_(not frozen), iterations=3)
    for stage in (outside, made_inside, shared):
        for given in (images, photos()):
            torch.testing.assert_close(stage(given), wanted, atol=1e-6, rtol=0)
    gradients = []
    for stage in (outside, made_inside):
        leaf = photos().requires_grad_()
        gradients += torch.autograd.grad(stage(leaf).square().sum(), leaf)
    torch.testing.assert_close(*gradients)


def test_level_zero_is_the_identity_without_a_call() -> None:
    denoiser, images = Convolved(), photos()
    assert torch.equal(ScoreOpt(denoiser, sigma=0.0, spread=0.0)(images), images)
    assert denoiser.calls == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_small_moments(dtype: torch.dtype) -> None:
    purifier = ScoreOpt(GaussianPrior(), iterations=10)
    found = purifier(photos().to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), purifier(photos()), atol=0.03, rtol=0)
    assert float((found.float() - purifier(photos())).abs().mean()) < 0.005


def test_the_stage_keeps_its_promises() -> None:
    rr.checks.check_stage(ScoreOpt(diffusion.SigmaUNet(width=8), iterations=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": -0.1}, "sigma: expected a finite level >= 0"),
        ({"sigma": float("nan")}, "sigma: expected a finite level"),
        ({"sigma": 0.1, "spread": 0.2}, "sigma: expected levels with 0 <= spread <= sigma, got sigma 0.1 and spread 0.2"),
        ({"iterations": 0}, "iterations: expected a whole number >= 1, got 0"),
        ({"lr": 0.0}, "lr: expected a step > 0"),
    ],
    ids=str,
)
def test_wrong_values(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreOpt(GaussianPrior(), **settings)


def test_wrong_kind_of_part() -> None:
    with pytest.raises(TypeError, match="denoiser: expected a Denoiser, got Conv2d"):
        ScoreOpt(torch.nn.Conv2d(3, 3, 1))
