"""Schedules by name: those of diffusers and of OpenAI's code, and what cannot be one."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys_diffusion import Timed

from robustrestore import diffusion
from robustrestore.diffusion import TimestepGrid, named_alphas

NAN = float("nan")


@pytest.mark.parametrize("steps", [50, 1000, 4000])
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_betas_are_those_of_diffusers(name: str, steps: int) -> None:
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(num_train_timesteps=steps, beta_schedule=name).betas.double().numpy()
    alphas = np.array([1.0, *named_alphas(name, steps)])
    np.testing.assert_allclose(1 - alphas[1:] / alphas[:-1], theirs, rtol=5e-6, atol=1e-9)  # theirs are float32


@pytest.mark.parametrize("steps", [10, 4000])
def test_the_cosine_schedule_is_that_of_the_paper(steps: int) -> None:
    def left(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - left((k + 1) / steps) / left(k / steps), 0.999) for k in range(steps)]
    np.testing.assert_allclose(diffusion.cosine_alphas(steps), np.cumprod(1 - np.array(betas)), rtol=1e-10)
    assert betas[-1] == 0.999
    assert named_alphas("cosine", steps) == named_alphas("squaredcos_cap_v2", steps) == diffusion.cosine_alphas(steps)
    uncut = round(0.5 * steps)  # below, the product is the closed form of the paper
    assert diffusion.cosine_alphas(steps)[uncut - 1] == pytest.approx(left(0.5) / left(0), rel=1e-10)


def test_roots_of_scaled_linear_betas_are_linear() -> None:
    alphas = np.array([1.0, *diffusion.scaled_linear_alphas(100, 0.00085, 0.012)])
    roots = np.sqrt(1 - alphas[1:] / alphas[:-1])
    np.testing.assert_allclose(roots, np.linspace(0.00085**0.5, 0.012**0.5, 100), rtol=1e-9)


def test_a_grid_takes_a_name_and_keeps_it(tmp_path: Path) -> None:
    grid = TimestepGrid("cosine", steps=400)
    plain = TimestepGrid(diffusion.cosine_alphas(400))
    assert grid.levels(0.3, 7) == plain.levels(0.3, 7)
    assert grid.sigma(400) == plain.sigma(400)
    assert repr(grid) == "TimestepGrid(alphas='cosine', steps=400)"
    assert repr(TimestepGrid()) == "TimestepGrid()"
    grid.save_pretrained(tmp_path)
    again = diffusion.Grid.from_pretrained(tmp_path)
    assert again.settings() == {"alphas": "cosine", "steps": 400}
    assert again.levels(0.3, 7) == grid.levels(0.3, 7)
    assert TimestepGrid("linear").levels(0.1, 5) == TimestepGrid().levels(0.1, 5)
    assert TimestepGrid(steps=400).sigma(400) == TimestepGrid(diffusion.linear_alphas(400)).sigma(400)
    assert grid.replace(steps=None).sigma(1000) == TimestepGrid(diffusion.cosine_alphas()).sigma(1000)


def test_names_and_steps_that_are_none() -> None:
    for wrong in ("cos", ""):
        with pytest.raises(ValueError, match=rf"one of linear, scaled_linear, cosine, squaredcos_cap_v2, got '{wrong}'"):
            TimestepGrid(wrong)
    for steps in (0, -1, 2.5):
        for name in diffusion.SCHEDULES:
            with pytest.raises(ValueError, match=f"steps: expected a whole number >= 1, got {steps}"):
                TimestepGrid(name, steps=steps)
    with pytest.raises(ValueError, match="steps: expected as many as there are alphas, 2, or None, got 3"):
        TimestepGrid([0.9, 0.5], steps=3)
    with pytest.raises(TypeError, match=r"alphas: expected numbers, got 'cosine': diffusion.named_alphas\('cosine'\)"):
        diffusion.DiscreteTime(Timed(), "cosine")


@pytest.mark.parametrize(("first", "last"), [(-1e-4, 0.02), (0, 0.02), (1e-4, 1.0), (NAN, 0.02), (1e-4, NAN), (1e-4, -0.1)])
def test_betas_that_cannot_be(first: float, last: float) -> None:
    for make in (diffusion.linear_alphas, diffusion.scaled_linear_alphas):
        with pytest.raises(ValueError, match=rf"first, last: expected betas in \(0, 1\), got {first} and {last}"):
            make(100, first, last)


@pytest.mark.parametrize(
    ("alphas", "got"),
    [([0.5, 0.9], "0.9 at entry 1 after 0.5"), ([1.5, 0.5], "1.5 at entry 0"), ([0.5, NAN], "nan at entry 1 after 0.5")],
)
def test_alphas_that_cannot_be_are_told(alphas: list[float], got: str) -> None:
    for make in (TimestepGrid, lambda alphas: diffusion.DiscreteTime(Timed(), alphas)):
        with pytest.raises(ValueError, match=rf"alphas: expected .*that fall with the timestep .*, got {got}$"):
            make(alphas)


def test_levels_that_single_precision_does_not_tell_apart() -> None:
    with pytest.raises(ValueError, match="alphas: expected levels that single precision tells apart"):
        diffusion.DiscreteTime(Timed(), [0.9, 0.9 - 1e-12, 0.5])  # its timestep would be 0 / 0


@pytest.mark.parametrize("make", [diffusion.TimestepGrid, diffusion.named_alphas], ids=["grid", "alphas"])
def test_so_many_steps_that_nothing_is_left(make: Any) -> None:
    with pytest.raises(ValueError, match="steps: expected as many as leave something of an image, got 100000"):
        make("linear", 100_000)
    assert make("cosine", 100_000)
    assert diffusion.TimestepGrid(diffusion.linear_alphas(100_000, 0.1 / 100_000, 20 / 100_000)).levels(0.2, 3)[1] < 0.2
