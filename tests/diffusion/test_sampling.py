"""Samplers: the steps of diffusers in our units, oracles, and the closed form for a Gaussian prior."""

import math
from itertools import pairwise

import pytest
import torch
from toys import photos
from toys_diffusion import Convolved, GaussianPrior, Oracle, Timed

import robustrestore as rr
from robustrestore import diffusion

SAMPLERS = [diffusion.DDIM(), diffusion.DDIM(eta=0.5), diffusion.DDPM(), diffusion.OneStep()]


def _chain(sampler: diffusion.Sampler, denoiser: diffusion.Denoiser, noisy: torch.Tensor, levels: list[float], seed: int = 0):
    own = torch.Generator().manual_seed(seed)
    for now, then in pairwise(levels):
        noise = torch.randn(noisy.shape, generator=own, dtype=noisy.dtype)
        noisy = sampler.step(noisy, denoiser(noisy, now), now, then, noise)
    return noisy


def _scale(a: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return a.sqrt() * (2 * y - 1)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("top", "count"), [(100, 10), (200, 4), (60, 1)])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ddim_is_that_of_diffusers(prediction: str, top: int, count: int, eta: float) -> None:
    from diffusers import DDIMScheduler

    stride = top // count
    options = {"timestep_spacing": "leading", "steps_offset": stride - 1, "clip_sample": False, "prediction_type": prediction}
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, **options)
    scheduler.set_timesteps(1000 // stride)
    times = scheduler.timesteps[-count:]
    assert int(times[0]) == top - 1
    network = Timed()
    z = _scale(scheduler.alphas_cumprod[top - 1], photos())
    z = z + (1 - scheduler.alphas_cumprod[top - 1]).sqrt() * torch.randn(z.shape, generator=torch.Generator().manual_seed(4))
    y = (z / scheduler.alphas_cumprod[top - 1].sqrt() + 1) / 2
    own = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for t in times:
            noise = torch.randn(z.shape, generator=own) if eta > 0 else None
            z = scheduler.step(network(z, t.expand(2)), t, z, eta=eta, variance_noise=noise).prev_sample
        denoiser = diffusion.DiscreteTime(network, prediction=prediction)
        levels = [denoiser.sigma(int(t)) for t in times] + [0.0]
        torch.testing.assert_close(_chain(diffusion.DDIM(eta), denoiser, y, levels), (z + 1) / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize("times", [[99, 80, 61, 30, 4], [149, 148, 20, 0], [39]], ids=str)
def test_ddpm_is_that_of_diffusers(times: list[int]) -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, variance_type="fixed_small", clip_sample=False)
    scheduler.set_timesteps(timesteps=times)
    network, own = Timed(), torch.Generator().manual_seed(0)
    a = scheduler.alphas_cumprod[times[0]]
    z = _scale(a, photos()) + (1 - a).sqrt() * torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(4))
    y = (z / a.sqrt() + 1) / 2
    with torch.no_grad():
        for t in scheduler.timesteps:
            z = scheduler.step(network(z, t.expand(2)), t, z, generator=own).prev_sample
        denoiser = diffusion.DiscreteTime(network)
        levels = [denoiser.sigma(t) for t in times] + [0.0]
        torch.testing.assert_close(_chain(diffusion.DDPM(), denoiser, y, levels), (z + 1) / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_an_oracle_leads_back_to_the_clean_image(sampler: diffusion.Sampler, steps: int) -> None:
    clean, start = photos(1), photos(3).flip(3)
    for sigma in (0.02, 0.5):
        purifier = rr.purifiers.Diffusion(Oracle(clean), sigma=sigma, steps=steps, sampler=sampler)
        torch.testing.assert_close(purifier(start), clean.expand(3, -1, -1, -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("steps", [1, 5])
def test_level_told_is_level_added(sampler: diffusion.Sampler, steps: int) -> None:
    images = photos(1, 64, 64)
    oracle = Oracle(images)
    rr.purifiers.Diffusion(oracle, sigma=0.3, steps=steps, sampler=sampler)(images)
    calls = 1 if isinstance(sampler, diffusion.OneStep) else steps
    assert oracle.told == pytest.approx([0.3 * (1 - k / calls) for k in range(calls)])
    for shown, level in zip(oracle.shown, oracle.told, strict=True):
        error = shown - images
        assert float(error.std()) == pytest.approx(level, rel=0.03)  # 12288 values: 0.6 % standard error
        assert abs(float(error.mean())) < 0.03 * level


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_calls_are_counted(sampler: diffusion.Sampler) -> None:
    for steps in (1, 4):
        denoiser = Convolved()
        with torch.no_grad():
            rr.purifiers.Diffusion(denoiser, steps=steps, sampler=sampler)(photos())
        assert denoiser.calls == (1 if isinstance(sampler, diffusion.OneStep) else steps)
        assert len(sampler.levels(0.3, steps)) == denoiser.calls + 1


def _trust(prior: GaussianPrior, level: float) -> float:
    return prior.std**2 / (prior.std**2 + level**2)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_ddim_on_a_gaussian_prior_is_the_known_linear_map(steps: int) -> None:
    prior, sampler = GaussianPrior(mean=0.4, std=0.1), diffusion.DDIM()
    levels = sampler.levels(0.25, steps)
    noisy = photos().double()
    factor = math.prod(_trust(prior, now) + then / now * (1 - _trust(prior, now)) for now, then in pairwise(levels))
    torch.testing.assert_close(_chain(sampler, prior, noisy, levels), 0.4 + factor * (noisy - 0.4), atol=1e-12, rtol=0)


def test_ddim_in_small_steps_is_the_probability_flow() -> None:
    prior, sampler = GaussianPrior(mean=0.4, std=0.1), diffusion.DDIM()
    noisy, levels = photos().double(), sampler.levels(0.25, 2000)
    flow = 0.4 + 0.1 / math.sqrt(0.1**2 + 0.25**2) * (noisy - 0.4)  # the exact ODE maps N(m, s^2 + sigma^2) to N(m, s^2)
    torch.testing.assert_close(_chain(sampler, prior, noisy, levels), flow, atol=2e-4, rtol=0)


@pytest.mark.parametrize("steps", [1, 4, 40])
def test_ddpm_on_a_gaussian_prior_has_the_known_mean_and_variance(steps: int) -> None:
    prior, sampler, start, sigma = GaussianPrior(mean=0.4, std=0.1), diffusion.DDPM(), 0.55, 0.25
    count = 100_000
    noisy = start + sigma * torch.randn(
        1, 1, 100, count // 100, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    levels = sampler.levels(sigma, steps)
    mean, variance = start, sigma**2
    for now, then in pairwise(levels):  # the noise posterior of Ho et al.: weight then^2 / now^2 on the noisy image
        weight = then**2 / now**2
        slope = _trust(prior, now) * (1 - weight) + weight
        mean = 0.4 + slope * (mean - 0.4)
        variance = slope**2 * variance + then**2 * (now**2 - then**2) / now**2
    out = _chain(sampler, prior, noisy, levels, seed=9)
    assert float(out.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / count))
    assert float(out.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / count))


def test_ddpm_in_small_steps_samples_the_posterior() -> None:
    prior, sampler, sigma = GaussianPrior(mean=0.4, std=0.1), diffusion.DDPM(), 0.25
    noisy = torch.full((1, 1, 100, 400), 0.7, dtype=torch.float64)
    out = _chain(sampler, prior, noisy, sampler.levels(sigma, 400), seed=9)
    trust = _trust(prior, sigma)
    assert float(out.mean()) == pytest.approx(0.4 + trust * 0.3, abs=2e-3)
    assert float(out.std()) == pytest.approx(math.sqrt(trust) * sigma, rel=0.02)


def test_eta_one_is_ddpm_and_the_last_step_adds_no_noise() -> None:
    for now, then in pairwise(diffusion.DDPM().levels(0.4, 6)):
        assert diffusion.DDIM(eta=1.0).spread(now, then) == diffusion.DDPM().spread(now, then)
    assert [diffusion.DDIM(eta).spread(0.2, 0.0) for eta in (0.0, 0.5, 1.0)] == [0, 0, 0]
    noisy, clean = photos(), photos().flip(2)
    torch.testing.assert_close(diffusion.DDPM().step(noisy, clean, 0.2, 0.0, torch.ones_like(noisy)), clean)


def test_sampler_errors() -> None:
    with pytest.raises(ValueError, match="steps: expected a whole number >= 1, got 0"):
        diffusion.DDIM().levels(0.1, 0)
    with pytest.raises(ValueError, match="steps: expected a whole number >= 1, got -1"):
        diffusion.DDPM().levels(0.1, -1)
    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"eta: expected a value in \[0, 1\], got"):
            diffusion.DDIM(eta=eta)
    with pytest.raises(ValueError, match=r"noise: expected fresh noise for the step from 0\.2 to 0\.1"):
        diffusion.DDPM().step(photos(), photos(), 0.2, 0.1)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize(
    ("now", "then"), [(0.1, 0.1), (0.1, 0.2), (0.1, -0.1), (math.nan, 0.1), (0.1, math.nan), (math.inf, 0.1)]
)
def test_steps_that_lead_nowhere(sampler: diffusion.Sampler, now: float, then: float) -> None:
    images = photos()
    with pytest.raises(ValueError, match=f"now, then: expected a finite level and a lower one >= 0, got {now} and {then}"):
        sampler.step(images, images, now, then, images)


@pytest.mark.parametrize("sampler", [diffusion.DDIM(), diffusion.DDPM(), diffusion.DPMSolverPP(), diffusion.VPSDE()], ids=str)
def test_a_chain_from_level_0_is_its_estimates(sampler: diffusion.Sampler) -> None:
    images = torch.full((1, 1, 2, 2), 0.4)
    levels = sampler.levels(0.0, 3)
    assert set(levels) == {0.0}
    for now, then in pairwise(levels):
        assert sampler.step(images, images + 0.1, now, then) is not images
        torch.testing.assert_close(sampler.step(images, images + 0.1, now, then), images + 0.1)
