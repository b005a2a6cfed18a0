"""Processes: those of diffusers and of DiffPure on the same noise, and the closed forms of a Gaussian prior."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from toys import photos
from toys_diffusion import Convolved, GaussianPrior, Oracle, Timed

import robustrestore as rr
from robustrestore import diffusion
from robustrestore.diffusion import DDIM, DDPM, VPODE, VPSDE, DPMSolverPP, Sampler

GRID = diffusion.TimestepGrid()
NOISELESS = [DDIM(grid=GRID), VPODE(), DPMSolverPP(), DPMSolverPP(GRID)]
NOISY = [DDIM(eta=0.5, grid=GRID), DDPM(GRID), VPSDE(), VPSDE(diffusion.Even())]
PROCESSES = [*NOISELESS, *NOISY]


def _draw(seed: int, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


def _run(sampler: Sampler, estimate, noisy: Tensor, levels: list[float], seed: int = 100) -> Tensor:
    before = None
    for k, (now, then) in enumerate(pairwise(levels)):
        clean = estimate(noisy, now)
        noise = _draw(seed + k, noisy) if sampler.spread(now, then) > 0 else None
        noisy, before = sampler.step(noisy, clean, now, then, noise, before), (clean, now)
    return noisy


class _Setting:
    """A network with timesteps in float64 and a start at level `top`, in diffusers' units and in ours."""

    def __init__(self, top: int) -> None:
        self.network = Timed().double()
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        self.a = (1 - betas).cumprod(0)
        clean = photos().double()
        self.noisy = clean + GRID.sigma(top) * _draw(4, clean)
        self.z = self.a[top - 1].sqrt() * (2 * self.noisy - 1)

    @torch.no_grad()
    def predicted(self, z: Tensor, t: int) -> Tensor:
        out: Tensor = self.network(z, torch.full((len(z),), t))
        return out

    def estimate(self, noisy: Tensor, sigma: float) -> Tensor:
        """The clean image by Tweedie's formula in diffusers' units."""
        t = round(GRID.timestep(sigma)) - 1
        z = self.a[t].sqrt() * (2 * noisy - 1)
        return ((z - (1 - self.a[t]).sqrt() * self.predicted(z, t)) / self.a[t].sqrt() + 1) / 2


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("top", "count"), [(100, 10), (200, 4), (60, 60), (30, 1)])
def test_ddim_on_timesteps_is_that_of_diffusers_in_float64(top: int, count: int, eta: float) -> None:
    from diffusers import DDIMScheduler

    here, stride = _Setting(top), top // count
    scheduler = DDIMScheduler(timestep_spacing="leading", steps_offset=stride - 1, clip_sample=False)
    scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = here.a, torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(1000 // stride)
    z = here.z
    for k, t in enumerate(scheduler.timesteps[-count:]):
        noise = _draw(100 + k, z) if eta > 0 else None
        z = scheduler.step(here.predicted(z, int(t)), t, z, eta=eta, variance_noise=noise).prev_sample
    sampler = DDIM(eta, GRID)
    found = _run(sampler, here.estimate, here.noisy, sampler.levels(GRID.sigma(top), count))
    torch.testing.assert_close(found, (z + 1) / 2, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("top", "count"), [(100, 10), (60, 7), (75, 75)])
def test_ddpm_on_timesteps_is_that_of_diffusers_in_float64(top: int, count: int) -> None:
    from diffusers import DDPMScheduler

    here, levels = _Setting(top), DDPM(GRID).levels(GRID.sigma(top), count)
    scheduler = DDPMScheduler(variance_type="fixed_small", clip_sample=False)
    scheduler.alphas_cumprod, scheduler.one = here.a, torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(timesteps=[round(GRID.timestep(level)) - 1 for level in levels[:-1]])
    z, own, drawn = here.z, torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    for t in scheduler.timesteps:
        z = scheduler.step(here.predicted(z, int(t)), t, z, generator=own).prev_sample
    noisy = here.noisy
    for now, then in pairwise(levels):
        noise = torch.randn(noisy.shape, generator=drawn, dtype=noisy.dtype)
        noisy = DDPM(GRID).step(noisy, here.estimate(noisy, now), now, then, noise)
    torch.testing.assert_close(noisy, (z + 1) / 2, atol=1e-9, rtol=0)


@pytest.mark.parametrize("times", [[100, 80, 60, 40, 20], [60, 51, 43, 34, 26, 17, 9], [150, 20], [40]], ids=str)
def test_dpm_solver_is_that_of_diffusers(times: list[int]) -> None:
    from diffusers import DPMSolverMultistepScheduler

    here = _Setting(times[0])
    scheduler = DPMSolverMultistepScheduler(solver_order=2, final_sigmas_type="zero")  # midpoint DPM-Solver++
    scheduler.set_timesteps(timesteps=[t - 1 for t in times])
    z = here.z
    for t in scheduler.timesteps:  # computes in float32, whatever it is handed
        z = scheduler.step(here.predicted(z.double(), int(t)), t, z).prev_sample
    levels = [GRID.sigma(t) for t in times] + [0.0]
    found = _run(DPMSolverPP(), here.estimate, here.noisy, levels)
    torch.testing.assert_close(found, ((z + 1) / 2).double(), atol=2e-6, rtol=0)
    if len(times) > 2:  # and the estimate before is what makes the difference
        assert (_run(DDIM(), here.estimate, here.noisy, levels) - found).abs().max() > 1e-4


@pytest.mark.parametrize("share", [1.0, 0.5], ids=["sde", "ode"])
@pytest.mark.parametrize(("top", "count"), [(75, 75), (150, 10), (150, 150), (40, 1)])
def test_vp_is_euler_maruyama_in_diffpures_units(top: int, count: int, share: float) -> None:
    here, sampler = _Setting(top), VPSDE() if share == 1 else VPODE()
    times = [top * (count - k) // count for k in range(count + 1)]
    z = here.z
    for k, (t, p) in enumerate(pairwise(times)):
        noise = here.predicted(z, t - 1)
        if p == 0:  # our choice: the estimate
            z = (z - (1 - here.a[t - 1]).sqrt() * noise) / here.a[t - 1].sqrt()
            break
        beta = 1 - here.a[t - 1] / here.a[p - 1]
        if t - p == 1:  # the schedule's own
            assert float(beta) == pytest.approx(1e-4 + (t - 1) * 0.0199 / 999, rel=1e-9)
        score = -noise / (1 - here.a[t - 1]).sqrt()
        z = z + (beta / 2) * z + share * beta * score
        if share == 1:
            z = z + beta.sqrt() * _draw(100 + k, z)
    found = _run(sampler, here.estimate, here.noisy, sampler.levels(GRID.sigma(top), count))
    torch.testing.assert_close(found, (z + 1) / 2, atol=1e-9, rtol=0)


@pytest.mark.parametrize("sampler", PROCESSES, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 7, 60])
def test_an_oracle_leads_back_and_nothing_is_left_over(sampler: Sampler, steps: int) -> None:
    clean, start = photos(1), photos(3).flip(3)
    for sigma in (0.01, GRID.sigma(60), 0.5):
        oracle = Oracle(clean)
        found = rr.purifiers.Diffusion(oracle, sigma=sigma, steps=steps, sampler=sampler)(start)
        torch.testing.assert_close(found, clean.expand(3, -1, -1, -1), atol=1e-6, rtol=0)
        assert len(oracle.told) == steps
        assert oracle.told == pytest.approx(sampler.levels(sigma, steps)[:-1])


@pytest.mark.parametrize("sampler", PROCESSES, ids=repr)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_calls_are_as_stated(sampler: Sampler, checkpointed: bool) -> None:
    for steps in (1, 4, 30):
        denoiser = Convolved()
        purifier = rr.purifiers.Diffusion(denoiser, sigma=0.1, steps=steps, sampler=sampler, checkpointed=checkpointed)
        with torch.no_grad():
            purifier(photos())
        assert denoiser.calls == steps


@pytest.mark.parametrize("sampler", [s for s in PROCESSES if not isinstance(s, VPSDE | VPODE)], ids=repr)
@pytest.mark.parametrize("steps", [3, 40])
def test_level_told_is_level_added(sampler: Sampler, steps: int) -> None:
    images = photos(1, 64, 64)
    oracle = Oracle(images)
    rr.purifiers.Diffusion(oracle, sigma=GRID.sigma(150), steps=steps, sampler=sampler)(images)
    added = [float((shown - images).std()) for shown in oracle.shown]
    assert added == pytest.approx(oracle.told, rel=0.03)  # 12288 values: 0.6 % standard error


@pytest.mark.parametrize("steps", [5, 150])
def test_diffpures_steps_add_what_its_recursion_says(steps: int) -> None:
    images = torch.full((1, 3, 96, 96), 0.5)
    oracle = Oracle(images)
    rr.purifiers.Diffusion(oracle, sigma=GRID.sigma(150), steps=steps, sampler=VPSDE())(images)
    variance, wanted = GRID.sigma(150) ** 2, []
    for now, then in pairwise([*oracle.told, 0.0]):
        wanted.append(math.sqrt(variance))
        a_now, a_then = 1 / (1 + 4 * now**2), 1 / (1 + 4 * then**2)
        beta = 1 - a_now / a_then  # of z: kept (1 + beta / 2 - beta / (1 - a)), and beta of fresh variance
        variance = (a_now * (1 + beta / 2 - beta / (1 - a_now)) ** 2 * variance + beta / 4) / a_then
    added = [float(shown.std()) for shown in oracle.shown]
    assert added == pytest.approx(wanted, rel=0.03)
    if steps == 5:  # few steps leave more than the network is told, fine ones do not
        assert added[-1] > 1.5 * oracle.told[-1]
    else:
        assert added[:100] == pytest.approx(oracle.told[:100], rel=0.04)


def _pixels() -> Tensor:
    return torch.full((1, 1, 100, 200), 0.55, dtype=torch.float64)


@pytest.mark.parametrize("sampler", NOISELESS, ids=repr)
def test_without_noise_a_gaussian_prior_gives_the_probability_flow(sampler: Sampler) -> None:
    prior, sigma = GaussianPrior(mean=0.4, std=0.1), 0.25
    noisy = _pixels() + sigma * _draw(2, _pixels())
    exact = 0.4 + 0.1 / math.hypot(0.1, sigma) * (noisy - 0.4)
    found = _run(sampler, prior, noisy, sampler.levels(sigma, 1000))
    torch.testing.assert_close(found, exact, atol=2e-3 if isinstance(sampler, VPODE) else 1e-3, rtol=0)
    # hence of the purified pixels: mean 0.4 + factor (0.55 - 0.4), standard deviation factor * sigma
    factor = 0.1 / math.hypot(0.1, sigma)
    assert float(found.mean()) == pytest.approx(0.4 + 0.15 * factor, abs=3e-3)
    assert float(found.std()) == pytest.approx(factor * sigma, rel=0.02)


@pytest.mark.parametrize("sampler", [DDPM(GRID), VPSDE(), VPSDE(diffusion.Even())], ids=repr)
def test_with_noise_a_gaussian_prior_gives_its_posterior(sampler: Sampler) -> None:
    prior, sigma = GaussianPrior(mean=0.4, std=0.1), 0.25
    trust = 0.1**2 / (0.1**2 + sigma**2)
    noisy = torch.full_like(_pixels(), 0.7)  # of one noisy value: the posterior given it
    found = _run(sampler, prior, noisy, sampler.levels(sigma, 400))
    assert float(found.mean()) == pytest.approx(0.4 + trust * 0.3, abs=3e-3)
    assert float(found.std()) == pytest.approx(math.sqrt(trust) * sigma, rel=0.02)
    noisy = _pixels() + sigma * _draw(2, _pixels())  # of one clean value, noised: mean and variance of both together
    found = _run(sampler, prior, noisy, sampler.levels(sigma, 400))
    assert float(found.mean()) == pytest.approx(0.4 + trust * 0.15, abs=3e-3)
    assert float(found.var()) == pytest.approx(trust**2 * sigma**2 + trust * sigma**2, rel=0.04)


def test_dpm_solver_is_of_second_order_and_ddim_of_first() -> None:
    prior, noisy = GaussianPrior(mean=0.4, std=0.1), photos().double()
    exact = 0.4 + math.hypot(0.1, 0.01) / math.hypot(0.1, 0.25) * (noisy - 0.4)  # at level 0.01

    def error(sampler: Sampler, steps: int) -> float:
        levels = [0.25 * (0.01 / 0.25) ** (k / steps) for k in range(steps + 1)]  # even in log sigma, the solver's time
        return float((_run(sampler, prior, noisy, levels) - exact).abs().max())

    assert error(DDIM(), 100) / error(DDIM(), 200) == pytest.approx(2, rel=0.05)
    assert error(DPMSolverPP(), 100) / error(DPMSolverPP(), 200) == pytest.approx(4, rel=0.05)
    assert error(DPMSolverPP(), 20) < error(DDIM(), 20) / 4


@pytest.mark.parametrize("sampler", [DDIM(), DDIM(0.5), DDPM(), *PROCESSES], ids=repr)
@pytest.mark.parametrize("then", [0.1, 0.0])
def test_gradcheck_of_a_step(sampler: Sampler, then: float) -> None:
    noisy, clean, previous = (_draw(k, torch.empty(1, 1, 3, 2, dtype=torch.float64)).requires_grad_() for k in range(3))
    noise = _draw(3, noisy)

    def step(noisy: Tensor, clean: Tensor, previous: Tensor) -> Tensor:
        out = sampler.step(noisy, clean, 0.17, then, noise, (previous, 0.26))
        return out * out + 0 * (noisy + previous).sum()

    assert torch.autograd.gradcheck(step, (noisy, clean, previous))


@pytest.mark.parametrize("sampler", [VPSDE(), VPODE(), DPMSolverPP(), DDPM(GRID)], ids=repr)
def test_gradients_through_the_chain(sampler: Sampler) -> None:
    purifier = rr.purifiers.Diffusion(Convolved(1).double(), sigma=0.05, steps=4, sampler=sampler)
    leaf = (
        0.3 + 0.4 * torch.rand(1, 1, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).requires_grad_()
    assert torch.autograd.gradcheck(purifier, leaf)
    gradients = [
        torch.autograd.grad(part(leaf).square().sum(), leaf)[0] for part in (purifier, purifier.replace(checkpointed=False))
    ]
    torch.testing.assert_close(*gradients, atol=1e-14, rtol=1e-14)


def test_what_the_base_owns() -> None:
    with pytest.raises(ValueError, match=r"noise: expected fresh noise for the step from 0\.2 to 0\.1"):
        VPSDE().step(photos(), photos(), 0.2, 0.1)
    for sampler in PROCESSES:
        assert sampler.spread(0.2, 0.0) == 0
        assert torch.equal(sampler.step(photos(), photos().flip(2), 0.2, 0.0), photos().flip(2))
    with pytest.raises(TypeError, match=r"Own\.step: expected it to stay that of Sampler"):

        class Own(Sampler):
            def step(self, *args: object) -> Tensor:  # type: ignore[override]
                return photos()


@pytest.mark.parametrize("sampler", [diffusion.DDIM(), diffusion.DDPM(), diffusion.DPMSolverPP(), diffusion.VPSDE()], ids=repr)
def test_estimates_of_lower_precision_pass(sampler: diffusion.Sampler) -> None:
    """As a denoiser under autocast gives them."""

    class Low(diffusion.Denoiser):
        def run(self, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return (0.9 * noisy).bfloat16()

    found = rr.purifiers.Diffusion(Low(), sigma=0.1, steps=3, sampler=sampler)(torch.full((1, 3, 4, 4), 0.5))
    assert found.shape == (1, 3, 4, 4)
    assert bool(found.isfinite().all())
