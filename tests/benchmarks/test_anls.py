"""The shortcuts of benchmarks/anls.py give what the library gives; the aerial loader reads what lies in the folders."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import robustrestore as rr
from robustrestore.calibrate import select_noise_level
from robustrestore.purifiers import Adaptive, Diffusion

pytest.importorskip("timm")
LEVELS = [0.0, 0.05, 0.1, 0.2]


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return {name: importlib.import_module(name) for name in ("anls", "anls_cells", "ucmerced")}
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def case(scripts: dict[str, ModuleType]):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval()
    halves = ((torch.arange(0, 40, 2), torch.arange(1, 40, 2)),)
    return scripts["anls_cells"].Case("toy", model, ("2", "0", "4"), None, None, halves, rr.tasks.Classification())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def half(scripts: dict[str, ModuleType], case, images: Tensor):
    cells = scripts["anls_cells"]
    noisy = (images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    tables = {"labels": {"labels": torch.zeros(40).long()}, "train": cells.sweep(case, images, [0.0], "train")}
    tables |= {"clean": cells.sweep(case, images, LEVELS, "clean"), "4": cells.sweep(case, noisy[::2], LEVELS, "4")}
    return scripts["anls"].Half(case, tables, "4", 0), noisy


def test_a_look_gives_the_features_of_the_library(scripts, case, images: Tensor) -> None:
    found = scripts["anls_cells"].look(case, images[:8])
    for module in case.modules:
        torch.testing.assert_close(found[module], rr.Features(case.model, module)(images[:8]).detach())
    assert torch.equal(found["answers"].long(), case.model(images[:8]).argmax(1))


@pytest.mark.parametrize("dims", [None, 3])
def test_the_curve_is_that_of_the_library(scripts, case, images: Tensor, half, dims: int | None) -> None:
    mine, noisy = half
    features, stage = rr.Features(case.model, "2", dims), Diffusion(rr.assets.prior(), steps=1, seed=None)
    choice = select_noise_level(stage, features, noisy[::2].split(8), images[1::2], LEVELS)
    curve = scripts["anls"].to_held(mine, 0, dims or 10_000)
    assert curve == pytest.approx([p.distance for p in choice.points], rel=0.02)  # bfloat16 in the sweep


def test_the_choice_for_each_image_is_that_of_adaptive(scripts, case, images: Tensor, half) -> None:
    mine, _ = half
    features = rr.Features(case.model, "2")
    stages = [Diffusion(rr.assets.prior(), sigma=level, steps=1, seed=None) for level in LEVELS]
    adaptive = Adaptive.of(stages, features, features.statistics(images[1::2]))
    scores = torch.stack([(rows - adaptive.mean) @ adaptive.whitening for rows in mine.attacked["2"]])
    wanted = (scores.square().mean(-1) - 1).abs().argmin(0)
    assert torch.equal(scripts["anls"].typical(mine, tuple(range(4)), held=True), wanted)
    assert len(wanted.unique()) > 1


def test_a_search_counts_the_calls_of_the_published_chain(scripts) -> None:
    found = scripts["anls"].walked([99.0, *(abs(k - 6) for k in range(15))])
    assert found["place"] == 7
    assert found["levels"] <= 6
    assert found["calls"] % 10 == 0
    assert found["calls"] < 0.51 * sum(range(10, 151, 10))


def test_the_loader_takes_classes_in_order_and_one_size(scripts, tmp_path: Path) -> None:
    for kind, value in (("beach", 200), ("airplane", 50)):
        for part in ("train", "test"):
            (tmp_path / part / kind).mkdir(parents=True)
            Image.fromarray(np.full((250, 256, 3), value, np.uint8)).save(tmp_path / part / kind / "x01.jpg")
    images, labels = scripts["ucmerced"].split(tmp_path, "test")
    assert images.shape == (2, 3, 128, 128)
    assert labels.tolist() == [0, 1]
    torch.testing.assert_close(images.mean((1, 2, 3)) * 255, torch.tensor([50.0, 200.0]), atol=1, rtol=0)
