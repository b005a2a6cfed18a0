"""Guidance: what the base promises whatever a plug-in computes."""

import pytest
import torch
from torch import Tensor, nn
from toys_diffusion import Convolved, GaussianPrior
from toys_guidance import LIKELIHOODS, small

import robustrestore as rr
from robustrestore import diffusion, guidances
from robustrestore.diffusion.guidance import FARTHEST

SIGMA = 0.15


class Pull(diffusion.GradientGuidance):
    """log p = -|seen - given|^2 / 2, summed: the gradient is given - seen."""

    def likelihood(self, seen: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
        return -(seen - given).square().flatten(1).sum(1) / 2


class Attention(nn.Module):
    """Attention over pixels: the fast kernels have no second derivative."""

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        rows = noisy.flatten(2).mT[:, None]
        return torch.nn.functional.scaled_dot_product_attention(3 * rows, rows, rows)[:, 0].mT.reshape(noisy.shape)


def images() -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return small(seed=5), small() + SIGMA * noise, small()


def test_the_estimate_moves_along_the_gradient_by_strength_and_variance() -> None:
    estimate, noisy, given = images()
    torch.testing.assert_close(Pull(3.0)(estimate, noisy, given, 0.2), estimate + 3 * 0.04 * (given - noisy))
    each = Pull(3.0)(estimate, noisy, given, torch.tensor([0.1, 0.2]))
    wanted = estimate + 3 * torch.tensor([0.01, 0.04], dtype=torch.float64).view(2, 1, 1, 1) * (given - noisy)
    torch.testing.assert_close(each, wanted, atol=1e-8, rtol=0)


@pytest.mark.parametrize("make", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_the_gradient_is_that_of_finite_differences(make) -> None:
    guidance, size = make(), 12 if isinstance(make(), guidances.SSIMGuidance) else 6
    estimate, given = small(size=size, seed=5), small(size=size)
    noisy = given + SIGMA * torch.randn(given.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = (guidance(estimate, noisy, given, SIGMA) - estimate) / SIGMA**2 / guidance.strength
    assert float(found.abs().max()) * SIGMA**2 * guidance.strength < FARTHEST
    level, own = torch.full((2,), SIGMA, dtype=torch.float64), torch.Generator().manual_seed(4)
    for _ in range(4):
        way, h = torch.randn(noisy.shape, generator=own, dtype=torch.float64), 1e-5
        with torch.no_grad(), rr.evaluating(guidance):
            up, down = (guidance.likelihood(noisy + s * h * way, given, level) for s in (1, -1))
        torch.testing.assert_close((found * way).flatten(1).sum(1), (up - down) / (2 * h), rtol=1e-5, atol=1e-8)
    assert float(found.abs().max()) > 1e-4


@pytest.mark.parametrize("make", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_an_image_is_pulled_alike_in_every_batch(make) -> None:  # trap B1: a mean over the batch pulls 1/N as hard
    guidance = make()
    estimate, noisy, given = small(5, 12, seed=5), small(5, 12, seed=6), small(5, 12)
    both = guidance(estimate, noisy, given, SIGMA)
    for k in range(5):
        one = slice(k, k + 1)
        torch.testing.assert_close(guidance(estimate[one], noisy[one], given[one], SIGMA), both[one], atol=1e-12, rtol=0)
    assert float((both - estimate).abs().max()) > 1e-4


@pytest.mark.parametrize("make", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_second_derivatives(make) -> None:
    guidance = make()
    size = 11 if isinstance(guidance, guidances.SSIMGuidance) else 4
    leaves = [small(1, size, seed=s).requires_grad_() for s in (5, 6, 0)]
    assert torch.autograd.gradcheck(lambda *three: guidance(*three, SIGMA), leaves, fast_mode=True)


def test_a_graph_is_made_only_where_it_is_asked_for() -> None:
    estimate, noisy, given = images()
    guidance = Pull(2.0)
    plain = guidance(estimate, noisy, given, SIGMA)
    assert not plain.requires_grad
    with torch.no_grad():
        assert torch.equal(guidance(estimate, noisy.clone().requires_grad_(), given, SIGMA), plain)
    with torch.inference_mode():
        assert torch.equal(guidance(estimate + 0, noisy + 0, given + 0, SIGMA), plain)
    for k, wanted in ((0, 1.0), (1, -2 * SIGMA**2), (2, 2 * SIGMA**2)):
        three = [one.clone() for one in (estimate, noisy, given)]
        three[k].requires_grad_()
        out = guidance(*three, SIGMA)
        (gradient,) = torch.autograd.grad(out.sum(), three[k])
        torch.testing.assert_close(gradient, torch.full_like(gradient, wanted))
        assert torch.equal(out.detach(), plain)
        assert all(one.grad is None for one in three)


@pytest.mark.parametrize("strength", [1e6, 1e20, 1e30])
@pytest.mark.parametrize("make", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_any_strength_stays_finite(make, strength: float) -> None:
    guidance = make().replace(strength=strength).float()
    given = small(size=12).float().requires_grad_()
    purifier = rr.purifiers.Diffusion(GaussianPrior(), sigma=0.3, steps=6, guidance=guidance)
    out = purifier(given)
    assert bool(out.isfinite().all())
    (gradient,) = torch.autograd.grad(out.sum(), given)
    assert bool(gradient.isfinite().all())
    estimate, noisy = small(size=12, seed=5).float(), small(size=12, seed=6).float()
    moved = (guidance(estimate, noisy, given.detach(), 0.3) - estimate).abs()
    assert 0.9 < float(moved.max()) <= FARTHEST + 1e-5


def test_strength_zero_is_the_estimate_itself() -> None:
    estimate, noisy, given = images()
    assert Pull(0.0)(estimate, noisy, given, SIGMA) is estimate


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_follows_the_images(dtype: torch.dtype) -> None:
    estimate, noisy, given = images()
    wanted = Pull(2.0)(estimate, noisy, given, SIGMA)
    out = Pull(2.0)(estimate.to(dtype), noisy.to(dtype), given.to(dtype), SIGMA)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), wanted, atol=1e-6 if dtype == torch.float32 else 0.01, rtol=0)


def test_attention_is_differentiated_twice() -> None:
    class Seen(diffusion.GradientGuidance):
        def likelihood(self, seen: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
            return -(Attention()(seen, sigma) - given).square().flatten(1).sum(1)

    denoiser = diffusion.NoiseConditioned(Attention())
    for guidance in (Seen(2.0), guidances.OnEstimate(Pull(2.0))):
        _, noisy, given = images()

        def step(given: Tensor, guidance: diffusion.Guidance = guidance, noisy: Tensor = noisy - given) -> Tensor:
            return diffusion.guided(denoiser, guidance, given + noisy, given, SIGMA)

        assert torch.autograd.gradcheck(step, given.requires_grad_(), fast_mode=True)


# Through the denoiser


def test_on_the_estimate_the_gradient_goes_through_the_denoiser() -> None:
    _, noisy, given = images()
    denoiser = GaussianPrior(0.4, 0.1)  # linear: d estimate / d noisy is its trust
    trust = 0.1**2 / (0.1**2 + SIGMA**2)
    guidance = guidances.OnEstimate(Pull(3.0))
    estimate = denoiser(noisy, SIGMA)
    wanted = estimate + 3 * SIGMA**2 * trust * (given - estimate)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            out = diffusion.guided(denoiser, guidance, noisy, given, SIGMA)
        torch.testing.assert_close(out, wanted)
        assert not out.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(diffusion.guided(denoiser, guidance, noisy + 0, given + 0, SIGMA), wanted)
    with pytest.raises(ValueError, match="estimate: expected one with the graph that leads to noisy"):
        guidance(estimate, noisy, given, SIGMA)


def test_on_the_estimate_it_reaches_the_denoisers_weights() -> None:
    _, noisy, given = images()
    denoiser, guidance = Convolved().double(), guidances.OnEstimate(Pull(3.0))
    weights = list(denoiser.parameters())
    out = diffusion.guided(denoiser, guidance, noisy, given, SIGMA, weights)
    (found,) = torch.autograd.grad(out.square().sum(), denoiser.conv1.bias)
    step = 1e-6
    values = []
    for sign in (1, -1):
        moved = Convolved().double()
        moved.conv1.bias.data[2] += sign * step
        values.append(diffusion.guided(moved, guidance, noisy, given, SIGMA).square().sum().detach())
    torch.testing.assert_close(found[2], (values[0] - values[1]) / (2 * step), rtol=1e-6, atol=0)


# Wrong arguments


def test_wrong_images_and_levels() -> None:
    estimate, noisy, given = images()
    with pytest.raises(ValueError, match=r"given: expected the estimate's shape \[2, 3, 6, 6\], got \[1, 3, 6, 6\]"):
        Pull(1.0)(estimate, noisy, given[:1], SIGMA)
    with pytest.raises(ValueError, match=r"noisy: expected shape \[N, C, H, W\]"):
        Pull(1.0)(estimate, noisy[0], given, SIGMA)
    with pytest.raises(ValueError, match=r"sigma: expected a number or 2 levels, one an image, got shape \[3\]"):
        Pull(1.0)(estimate, noisy, given, torch.ones(3))
    for strength in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="strength: expected a finite number >= 0"):
            Pull(strength)


def test_likelihoods_that_cannot_guide_are_told() -> None:
    class Mean(diffusion.GradientGuidance):
        def likelihood(self, seen: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
            return (seen - given).mean()

    class Blind(diffusion.GradientGuidance):
        def likelihood(self, seen: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
            return (seen.detach() - given).flatten(1).sum(1)

    class Wide(diffusion.Guidance):
        def run(self, estimate: Tensor, noisy: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
            return estimate[..., :3]

    with pytest.raises(ValueError, match=r"Mean: expected one likelihood an image, got shape \[\]"):
        Mean(1.0)(*images(), SIGMA)
    with pytest.raises(ValueError, match="Blind: expected a likelihood with a gradient, got none"):
        Blind(1.0)(*images(), SIGMA)
    with pytest.raises(ValueError, match=r"Wide: expected run to keep \[2, 3, 6, 6\], got \[2, 3, 6, 3\]"):
        Wide()(*images(), SIGMA)
