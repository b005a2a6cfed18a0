"""Grids: timesteps and sigmas are one thing, chains end exactly, and networks are told every timestep once."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from toys import photos
from toys_diffusion import Convolved, Timed

import robustrestore as rr
from robustrestore import diffusion

GRID = diffusion.TimestepGrid()
BETAS = np.linspace(1e-4, 0.02, 1000)


def _cosine(steps: int) -> list[float]:
    """The cosine schedule of Nichol and Dhariwal (2021), betas cut at 0.999, as diffusers makes it."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(num_train_timesteps=steps, beta_schedule="squaredcos_cap_v2").alphas_cumprod.tolist()


class _Listening(Timed):
    """Keeps the timesteps that it is told."""

    def forward(self, z: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        self.told = [*getattr(self, "told", []), float(timestep[0])]
        return super().forward(z, timestep)


def test_a_timestep_counts_unit_steps_of_the_schedule() -> None:
    denoiser, a = diffusion.DiscreteTime(Timed()), np.cumprod(1 - BETAS)
    assert GRID.sigma(0) == 0
    for steps in (1, 2, 10, 100, 150, 500, 1000):
        assert GRID.sigma(steps) == pytest.approx(math.sqrt((1 - a[steps - 1]) / a[steps - 1]) / 2, rel=1e-11)
        assert GRID.sigma(steps) == pytest.approx(denoiser.sigma(steps - 1), rel=1e-11)
    assert GRID.sigma(100) == pytest.approx(0.169, abs=5e-4)  # the facts' table
    assert GRID.sigma(10) == pytest.approx(0.0218, abs=5e-5)


@pytest.mark.parametrize("alphas", [None, _cosine(400)], ids=["linear", "cosine"])
def test_conversions_are_inverse_and_float32_does_not_matter(alphas: list[float] | None) -> None:
    grid = diffusion.TimestepGrid(alphas)
    last = 1000 if alphas is None else 400
    for t in range(last + 1):
        assert grid.timestep(grid.sigma(t)) == t
        assert grid.timestep(float(np.float32(grid.sigma(t)))) == t
    for t in (0.3, 1.5, 12.25, last - 0.3):
        assert grid.timestep(grid.sigma(t)) == pytest.approx(t, abs=1e-6)


def test_between_two_timesteps_beta_is_constant() -> None:
    alphas = [1 / (1 + 4 * GRID.sigma(t) ** 2) for t in (40, 40.5, 41)]
    assert alphas[1] / alphas[0] == pytest.approx(alphas[2] / alphas[1], rel=1e-12)
    assert alphas[2] / alphas[0] == pytest.approx(1 - BETAS[40], rel=1e-12)


@pytest.mark.parametrize("grid", [GRID, diffusion.Even()], ids=repr)
@pytest.mark.parametrize("sigma", [0.003, 0.0218, 0.1, GRID.sigma(60), GRID.sigma(99.5), 0.5])
@pytest.mark.parametrize("steps", [1, 2, 7, 60, 99, 500])
def test_chains_fall_and_end_exactly(grid: diffusion.Grid, sigma: float, steps: int) -> None:
    levels = grid.levels(sigma, steps)
    assert len(levels) == steps + 1
    assert (levels[0], levels[-1]) == (sigma, 0.0)
    assert all(now > then for now, then in pairwise(levels))


@pytest.mark.parametrize("steps", [1, 5, 7, 11, 50, 149])
def test_a_chain_of_fewer_steps_stays_on_the_full_chains_grid(steps: int) -> None:
    full = GRID.levels(GRID.sigma(150), 150)
    assert full == [GRID.sigma(t) for t in range(150, -1, -1)]
    assert set(GRID.levels(GRID.sigma(150), steps)) <= set(full)


def test_timesteps_are_evenly_spaced_and_start_at_the_level() -> None:
    def times(top: float, steps: int) -> list[float]:
        return [GRID.timestep(level) for level in GRID.levels(GRID.sigma(top), steps)]

    assert times(100, 5) == [100, 80, 60, 40, 20, 0]
    assert times(60, 7) == [60, 51, 43, 34, 26, 17, 9, 0]  # diffusers' uniform stride starts this one at 56
    assert times(99.6, 4) == pytest.approx([99.6, 75, 50, 25, 0])
    assert times(2, 5) == pytest.approx([2, 1.6, 1.2, 0.8, 0.4, 0])  # more steps than timesteps: in between


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("top", [75, 150])
def test_a_full_chain_tells_the_network_every_timestep_once(top: int, rounded: bool) -> None:
    network = _Listening()  # DiffPure's float32 clock starts these two at 74 and 149, and skips or doubles labels
    denoiser = diffusion.DiscreteTime(network, rounded=rounded)
    purifier = rr.purifiers.Diffusion(denoiser, sigma=GRID.sigma(top), steps=top, sampler=diffusion.DDPM(GRID))
    with torch.no_grad():
        purifier(photos(1))
    assert network.told == pytest.approx(list(range(top - 1, -1, -1)), abs=0 if rounded else 2e-3)


SAMPLERS = [diffusion.DDIM(0.5, GRID), diffusion.DDPM(GRID), diffusion.VPSDE(), diffusion.VPODE(), diffusion.DPMSolverPP(GRID)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("steps", [5, 100])
def test_a_level_is_the_same_told_as_sigma_or_as_timestep(sampler: diffusion.Sampler, steps: int) -> None:
    images, table = photos(), diffusion.DiscreteTime(Timed()).sigma(99)
    told = [GRID.sigma(100), table, float(np.float32(table)), math.sqrt(1 / np.prod(1 - BETAS[:100]) - 1) / 2]
    purifier = rr.purifiers.Diffusion(Convolved(), steps=steps, sampler=sampler)
    with torch.no_grad():
        first, *others = (purifier.replace(sigma=sigma)(images) for sigma in told)
        for other in others:
            torch.testing.assert_close(other, first, atol=2e-6, rtol=0)
        assert (purifier.replace(sigma=GRID.sigma(101))(images) - first).abs().max() > 1e-5


def test_wrong_values() -> None:
    for alphas in ([], [0.5, 0.5], [1.0, 0.5], [0.5, 0.0], [0.5, float("nan")]):
        with pytest.raises(ValueError, match=r"alphas: expected values in \(0, 1\) that fall with the timestep"):
            diffusion.TimestepGrid(alphas)
    for timestep in (-1, 1000.5, float("nan")):
        with pytest.raises(ValueError, match=r"timestep: expected a number of unit steps in \[0, 1000\]"):
            GRID.sigma(timestep)
    for sigma in (-0.1, 100.0, float("nan")):
        with pytest.raises(ValueError, match=r"sigma: expected a level in \[0, 78\.7\], where the timesteps end"):
            GRID.timestep(sigma)
    for grid in (GRID, diffusion.Even()):
        for steps in (0, 2.5, float("nan")):
            with pytest.raises(ValueError, match=f"steps: expected a whole number >= 1, got {steps}"):
                grid.levels(0.1, steps)
    for chain in (diffusion.Even(), diffusion.OneStep(), diffusion.DDIM()):
        for sigma in (-0.1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"sigma: expected a finite level >= 0, got {sigma}"):
                chain.levels(sigma, 1)
    makers = (diffusion.DDIM, diffusion.DDPM, diffusion.VPSDE, diffusion.VPODE, diffusion.DPMSolverPP)
    for make in makers:
        with pytest.raises(TypeError, match=r"grid: expected a Grid such as diffusion.TimestepGrid\(\), got int"):
            make(grid=1000)


@pytest.mark.parametrize("sampler", [diffusion.DDIM, diffusion.DDPM, diffusion.DPMSolverPP, diffusion.VPSDE], ids=str)
def test_a_level_far_below_the_first_timestep_is_one_step(sampler: Any) -> None:
    images = torch.full((1, 3, 4, 4), 0.4)
    purifier = rr.purifiers.Diffusion(Convolved(), 1e-5, 5, sampler(grid=diffusion.TimestepGrid()))
    torch.testing.assert_close(purifier(images), purifier.replace(steps=1)(images), atol=1e-3, rtol=0)
