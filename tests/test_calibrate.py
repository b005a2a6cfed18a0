"""ANLS: the level that theory names, the curve as published, and a search that finds the same for less."""

import json
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from toys_diffusion import Convolved, GaussianPrior

import robustrestore as rr
from robustrestore import diffusion
from robustrestore.calibrate import LevelChoice, Point, coarse_to_fine, full_sweep, select_noise_level, sigma_grid
from robustrestore.feature import Features, Gaussian
from robustrestore.purifiers import Blur, Diffusion

STD = 0.1
LEVELS = [0.0, *sigma_grid()]


class Untouchable:
    """Labels that nobody may look at."""

    def __getattribute__(self, name: str) -> None:
        raise AssertionError(f"a label was touched: {name}")


class Patches(nn.Module):
    """Sixteen pixels mixed by an orthonormal matrix: features that are independent N(mean, STD^2) where pixels are."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        mix = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(6)))[0]
        self.conv, self.head = nn.Conv2d(1, width, 4, bias=False), nn.Linear(width, 2)
        self.conv.weight = nn.Parameter(mix[:width].reshape(width, 1, 4, 4))
        self.shown = 0

    def forward(self, images: Tensor) -> Tensor:
        self.shown += len(images)
        return self.head(self.conv(images).flatten(1))


def _drawn(count: int, seed: int, attack: float = 0.0) -> Tensor:
    """Images of independent pixels N(0.5, STD^2), and noise of standard deviation `attack` on top."""
    own = torch.Generator().manual_seed(seed)
    clean = 0.5 + STD * torch.randn(count, 1, 4, 4, generator=own)
    return (clean + attack * torch.randn(clean.shape, generator=own)).clamp(0, 1)


def _best(attack: float) -> float:
    """Where one exact denoising step gives features of clean variance.

    trust = v / (v + sigma^2) maps variance v + attack^2 + sigma^2 to trust^2 times that; equal to v where u = v + sigma^2
    solves u^2 = v (u + attack^2).
    """
    v = STD**2
    return math.sqrt((v + math.sqrt(v**2 + 4 * v * attack**2)) / 2 - v)


def _purifier(**settings: object) -> Diffusion:
    return Diffusion(GaussianPrior(0.5, STD), steps=1, sampler=diffusion.OneStep(), **settings)


@pytest.fixture(scope="module")
def features() -> Features:
    return Features(Patches(), "conv")


@pytest.fixture(scope="module")
def reference(features: Features) -> Gaussian:
    return features.statistics(_drawn(8000, 1))


@pytest.mark.parametrize("attack", [0.0, 0.05, 0.1, 0.15])
def test_the_chosen_level_is_the_one_that_theory_names(features: Features, reference: Gaussian, attack: float) -> None:
    attacked, calls = _drawn(2000, 2, attack).split(500), {}
    for search in (full_sweep, coarse_to_fine):
        found = select_noise_level(_purifier(), features, attacked, reference, LEVELS, search)
        assert abs(found.chosen - _best(attack)) <= 0.0165 / 2 + 0.003  # half a step of the grid, and 2000 images' noise
        calls[search] = found.calls
    assert calls[full_sweep] == 15 * 2000
    assert calls[coarse_to_fine] <= 0.4 * calls[full_sweep]


def test_the_curve_is_the_closed_form(features: Features, reference: Gaussian) -> None:
    found = select_noise_level(_purifier(), features, _drawn(4000, 2, 0.1), reference, LEVELS)
    v = STD**2
    for point in found.points:
        std = v / (v + point.level**2) * math.sqrt(v + 0.1**2 + point.level**2)
        assert point.distance == pytest.approx(8 * (std - STD) ** 2, rel=0.1, abs=2e-4)
    assert found.chosen == min(found.points, key=lambda p: p.distance).level
    assert not found.warnings


def test_one_noise_for_all_images_would_be_another_curve(features: Features, reference: Gaussian) -> None:
    """Images of a seeded purifier share their noise; measured as it is, it would add none to the spread of features."""
    attacked, level = _drawn(2000, 2, 0.1), [0.1]
    fresh = select_noise_level(_purifier(seed=3), features, attacked, reference, level)
    assert fresh.points == select_noise_level(_purifier(seed=None), features, attacked, reference, level).points
    taken = select_noise_level(lambda s: _purifier(seed=3, sigma=s), features, attacked, reference, level)
    assert taken.points[0].distance > 3 * fresh.points[0].distance


def test_level_zero_is_the_images_without_a_call(features: Features, reference: Gaussian) -> None:
    denoiser, attacked = GaussianPrior(), _drawn(50, 2, 0.1)
    found = select_noise_level(Diffusion(denoiser), features, attacked, reference, [0.0])
    assert denoiser.calls == found.calls == 0
    assert found.points == (Point(0.0, features.statistics(attacked).distance(reference), 0),)
    found = select_noise_level(lambda level: pytest.fail("asked for a stage"), features, attacked, reference, [0])
    assert found.chosen == 0


def test_network_calls_are_counted_by_image(features: Features, reference: Gaussian) -> None:
    denoiser, attacked = Convolved(1), _drawn(40, 2, 0.1).split(15)
    one = select_noise_level(Diffusion(denoiser, steps=3), features, attacked, reference, [0.1, 0.2])
    assert [p.calls for p in one.points] == [120, 120]
    assert denoiser.calls == 2 * 3 * 3
    assert not denoiser._forward_hooks
    steps = {0.1: 2, 0.2: 5}  # as published: as many steps as the level asks for
    many = select_noise_level(lambda s: Diffusion(denoiser, s, steps[s]), features, attacked, reference, list(steps))
    assert [p.calls for p in many.points] == [80, 200]
    nested = diffusion.NoiseConditioned(denoiser)  # one denoiser inside another: the network runs once
    twice = select_noise_level(Diffusion(nested, steps=3), features, attacked, reference, [0.1])
    assert [p.calls for p in twice.points] == [120]
    plain = select_noise_level(lambda s: Blur(s), features, attacked, reference, [1.0, 2.0])
    assert [p.calls for p in plain.points] == [40, 40]  # without a denoiser, calls of the stage


def test_labels_are_never_touched_and_images_come_in_any_packing(features: Features) -> None:
    clean, attacked = _drawn(40, 1), _drawn(40, 2, 0.1)
    one = select_noise_level(_purifier(), features, attacked.split(8), clean, [0.1])
    pairs = [(part, Untouchable()) for part in attacked.split(8)]
    other = select_noise_level(_purifier(), features, pairs, [[part, Untouchable()] for part in clean.split(7)], [0.1])
    assert other.points[0].distance == pytest.approx(one.points[0].distance, rel=1e-6)


def test_clean_statistics_are_measured_once(features: Features, reference: Gaussian) -> None:
    net, attacked = features.model, _drawn(30, 2, 0.1)
    before = net.shown
    found = select_noise_level(_purifier(), features, attacked, reference, [0, 0.1, 0.2])
    assert net.shown - before == 3 * 30
    before = net.shown
    again = select_noise_level(_purifier(), features, attacked, _drawn(8000, 1), [0, 0.1, 0.2])
    assert net.shown - before == 8000 + 3 * 30
    assert again.points == found.points
    other = Features(Patches(4), "conv")
    with pytest.raises(ValueError, match="expected features of the same network"):
        select_noise_level(_purifier(), other, attacked, reference, [0.1])


def test_it_repeats_itself_and_leaves_no_trace(features: Features, reference: Gaussian) -> None:
    net, attacked = features.model.train(), _drawn(60, 2, 0.1)
    kept, state = attacked.clone(), torch.random.get_rng_state()
    purifier = Diffusion(GaussianPrior(0.5, STD), steps=2, sampler=diffusion.DDPM(), seed=None)
    first = select_noise_level(purifier, features, attacked, reference, LEVELS[::4])
    torch.manual_seed(77)
    moved = torch.random.get_rng_state()
    assert select_noise_level(purifier, features, attacked, reference, LEVELS[::4]) == first
    assert torch.equal(torch.random.get_rng_state(), moved)
    other = select_noise_level(purifier, features, attacked, reference, LEVELS[::4], seed=1)
    assert other.points[1:] != first.points[1:]
    torch.random.set_rng_state(state)
    assert torch.equal(attacked, kept)
    assert net.training
    net.eval()


def test_progress_tells_each_level_once(features: Features, reference: Gaussian) -> None:
    told: list[Point] = []
    found = select_noise_level(_purifier(), features, _drawn(30, 2), reference, LEVELS, coarse_to_fine, progress=told.append)
    assert sorted(told, key=lambda p: p.level) == list(found.points)
    assert told[0].level == 0


def test_fewer_images_than_features_are_finite_and_flagged() -> None:
    wide = Features(Patches(16), "conv")
    found = select_noise_level(_purifier(), wide, _drawn(10, 2, 0.1), _drawn(20, 1), [0, 0.1])
    assert all(math.isfinite(p.distance) and p.distance > 0 for p in found.points)
    said = [w for w in found.warnings if "less than twice as many" in w]
    assert [w.split(" for ")[0] for w in said] == ["attacked: 10 images", "clean: 20 images"]
    few = Features(Patches(16), "conv", dims=4)
    assert not any("twice" in w for w in select_noise_level(_purifier(), few, _drawn(10, 2), _drawn(20, 1), [0, 0.1]).warnings)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 12, 15, 16, 30])
def test_the_search_finds_every_valley(count: int) -> None:
    most = {12: 5, 15: 6, 16: 6, 30: 7}  # the next Fibonacci number's place
    for best in range(count):
        for slope in (0.1, 1.0, 7.0):
            asked: set[int] = set()

            def distance(k: int, best: int = best, slope: float = slope, asked: set[int] = asked) -> float:
                asked.add(k)
                return slope * (best - k) if k < best else (k - best) ** 1.5

            coarse_to_fine(count, distance)
            assert best in asked
            assert asked >= {k for k in (best - 1, best + 1) if 0 <= k < count}
            assert len(asked) <= most.get(count, count)
            if count == 15:  # with as many steps as the level asks for, high levels cost more
                assert sum(k + 1 for k in asked) <= 0.51 * sum(range(1, 16))
    full: list[int] = []
    full_sweep(count, lambda k: full.append(k) or 0.0)
    assert full == list(range(count))


def _choice(values: list[float], monkeypatch: pytest.MonkeyPatch, search=full_sweep) -> LevelChoice:
    """The choice on a made-up curve: features whose distance is told."""
    features = Features(Patches(), "conv")
    levels = [0.1 * (k + 1) for k in range(len(values))]
    purifier = {level: _purifier(sigma=level) for level in levels}
    current: list[float] = []

    def make(level: float) -> Diffusion:
        current[:] = [values[levels.index(level)]]
        return purifier[level]

    monkeypatch.setattr(Gaussian, "distance", lambda self, other: current[0])
    return select_noise_level(make, features, _drawn(20, 2), _drawn(20, 1), levels, search)


@pytest.mark.parametrize(
    ("values", "chosen", "said"),
    [
        ([3, 2, 1, 2, 3], 0.3, []),
        ([3, 1, 1, 1, 3], 0.2, []),  # the lowest level of equals
        ([5, 4, 3, 2, 1], 0.5, ["at the end"]),
        ([3, 1, 2, 0.5, 3], 0.4, ["not one valley"]),
        ([3, 1, 1.01, 1.0, 3], 0.2, []),  # a rise of 0.5 % of the range is noise
        ([300, 100, 103, 101, 300], 0.2, []),  # of the range, not of the value
        ([2, 2, 2, 2, 2], 0.1, ["flat"]),
        ([2, 1.96, 1.95, 1.97, 2], 0.3, ["flat"]),
        ([0, 0, 0, 0, 0], 0.1, ["flat"]),
    ],
    ids=str,
)
def test_odd_curves_are_flagged(values: list[float], chosen: float, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = _choice(values, monkeypatch)
    assert found.chosen == pytest.approx(chosen)
    assert [w.split(":")[0] for w in found.warnings if not w.startswith(("attacked", "clean"))] == said
    if "not one valley" not in said:
        assert _choice(values, monkeypatch, coarse_to_fine).chosen == found.chosen


def test_a_search_flags_the_second_valley_that_it_meets(monkeypatch: pytest.MonkeyPatch) -> None:
    met = _choice([1, 6, 3, 9, 5, 8, 9], monkeypatch, coarse_to_fine)
    assert any(w.startswith("not one valley") for w in met.warnings)
    missed = _choice([3, 1, 2, 0.5, 3], monkeypatch, coarse_to_fine)  # the highest levels are never asked for: as documented
    assert len(missed.points) < 5
    assert missed.chosen == pytest.approx(0.2)


@pytest.mark.parametrize(("shift", "far"), [(0.0, False), (0.02, False), (0.1, True)])
def test_a_gap_that_no_level_closes_is_flagged(features: Features, shift: float, far: bool) -> None:
    """The attack alone brings the features 8 (sqrt(2) - 1)^2 STD^2 away, and a level takes it back; a shift stays."""
    clean = features.statistics((_drawn(4000, 1) + shift).clamp(0, 1))
    found = select_noise_level(_purifier(), features, _drawn(2000, 2, 0.1), clean, LEVELS)
    assert any(w.startswith("far: ") for w in found.warnings) == far
    above = select_noise_level(_purifier(), features, _drawn(2000, 2, 0.1), clean, LEVELS[1:])
    assert not any(w.startswith("far: ") for w in above.warnings)  # nothing to compare with


def test_level_zero_chosen_is_flagged(features: Features, reference: Gaussian) -> None:
    found = select_noise_level(_purifier(), features, _drawn(2000, 2), reference, LEVELS[:4])
    assert found.chosen == 0
    assert [w.split(":")[0] for w in found.warnings] == ["level 0"]


def test_the_grid_is_that_of_the_paper() -> None:
    grid = sigma_grid()
    assert len(grid) == 15
    wanted = {0: 0.047, 2: 0.112, 4: 0.176, 6: 0.241, 9: 0.342, 11: 0.412, 14: 0.522}  # for images in [-1, 1]
    for place, sigma in wanted.items():
        assert 2 * grid[place] == pytest.approx(sigma, abs=6e-4)
    at = {steps: 2 * sigma_grid([50], diffusion.linear_alphas(steps))[0] for steps in (800, 1200)}
    assert at == pytest.approx({800: 0.194, 1200: 0.163}, abs=6e-4)
    assert sigma_grid([0, 999]) == [diffusion.DiscreteTime(nn.Identity()).sigma(t) for t in (0, 999)]
    with pytest.raises(ValueError, match=r"timesteps: expected whole numbers from 0 to 999, got \[-1, 1000\]"):
        sigma_grid([-1, 5, 1000])


def test_results_as_text(features: Features, reference: Gaussian) -> None:
    import xml.etree.ElementTree as ElementTree

    found = select_noise_level(_purifier(), features, _drawn(50, 2, 0.1), reference, [0, 0.05, 0.1])
    content = json.loads(found.json())
    assert content["chosen"] == found.chosen
    assert content["calls"] == found.calls == 100
    assert [p["level"] for p in content["points"]] == [0, 0.05, 0.1]
    assert content["about"]["levels"] == [0, 0.05, 0.1]
    assert content["about"]["attacked"] == 50
    assert content["about"]["search"] == "full_sweep"
    table = found.markdown().splitlines()
    assert sum(f"**{found.chosen:.4f}**" in line for line in table) == 1
    assert len([line for line in table if line.startswith("|")]) == 5
    svg = ElementTree.fromstring(found.plot())
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}circle"))) == 4  # three levels and the mark


def _once() -> Iterator[Tensor]:
    yield _drawn(8, 1)


def test_wrong_arguments(features: Features, reference: Gaussian) -> None:
    images = _drawn(8, 2)
    with pytest.raises(TypeError, match="purifier: expected a part with the setting sigma, got Jpeg"):
        select_noise_level(rr.purifiers.Jpeg(), features, images, reference)
    with pytest.raises(TypeError, match="purifier: expected a Stage or a function from level to Stage, got Conv2d"):
        select_noise_level(nn.Conv2d(1, 1, 1), features, images, reference)
    with pytest.raises(TypeError, match="attacked: expected batches that can be gone through again, got generator"):
        select_noise_level(_purifier(), features, _once(), reference)
    with pytest.raises(TypeError, match="clean: expected batches that can be gone through again, got generator"):
        select_noise_level(_purifier(), features, images, _once())
    for levels in ([], [-0.1], [float("nan")], [0.1, float("inf")]):
        with pytest.raises(ValueError, match="levels: expected finite sigmas >= 0"):
            select_noise_level(_purifier(), features, images, reference, levels)
