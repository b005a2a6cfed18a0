"""The benchmark of purifiers: floors make the calls that purifiers make; memory of a gradient through many steps."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from robustrestore import registry

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def floors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("purifier_floors")


@pytest.fixture
def cost(floors):
    return importlib.import_module("purifiers")


def test_every_floor_makes_the_calls_of_its_purifier(floors) -> None:
    prior, auxiliary = floors.networks("cpu")
    counts = {prior.body: 0, auxiliary: 0}

    def note(module, inputs, output) -> None:
        counts[module] += 1

    for module in counts:
        module.register_forward_hook(note)
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for name, pair in floors.pairs(prior, auxiliary).items():
        made = []
        for run in (pair.stage, pair.floor):
            counts.update(dict.fromkeys(counts, 0))
            with torch.no_grad():
                run(images)
            made.append(tuple(counts.values()))
        assert made[0] == made[1], name
        assert f"{made[0][0]} call" in pair.calls or made[0][1] > 0, name


def test_every_purifier_with_a_denoiser_has_a_floor(floors) -> None:
    stages = [pair.stage for pair in floors.pairs(*floors.networks("cpu")).values()]
    ours = {entry.name for entry in registry.entries("purifiers") if entry.package == "robustrestore"}
    assert {type(stage).name for stage in stages} == ours - {"jpeg", "median", "bit_depth", "blur"}


def test_middles_are_covered_once_and_far_from_edges(cost) -> None:
    middle = cost._middles(256, 32, 112)
    assert bool(middle.any())
    rows, columns = (middle.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
    assert rows == [start + k for start in (0, 224, 448) for k in range(112, 144)]  # a later one is covered twice
    assert columns[:32] == list(range(112, 144))


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")


@pytest.mark.slow
@linux
@pytest.mark.parametrize("kind", ["purified", "gradient"])
def test_a_frame_of_1024_x_2048_fits_into_two_gibibytes_with_all_of_the_process(cost, kind: str) -> None:
    assert float(cost.harness.fresh(cost.__file__, "--peak", "frame", "--kind", kind)) <= 2048


@pytest.mark.slow
@linux
@pytest.mark.parametrize("name", ["diffusers UNet2DModel, AGDM", "diffusers UNet2DModel, pixels"])
def test_fifty_guided_steps_need_little_more_memory_than_five(cost, name: str) -> None:
    peaks = {kind: float(cost.harness.fresh(cost.__file__, "--peak", name, "--kind", kind)) for kind in ("plain 5", "5", "50")}
    assert peaks["50"] <= 1.3 * peaks["5"]
    assert peaks["plain 5"] > 2 * peaks["50"]
