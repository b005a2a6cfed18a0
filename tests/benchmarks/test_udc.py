"""The table of cameras behind displays: cells on toys whose answer is known, and the whole script at toy size."""

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import robustrestore as rr
from robustrestore.data.image_file import save_image

pytest.importorskip("segmentation_models_pytorch")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ("udc", "udc_data", "udc_trainings", "udc_rows", "udc_report", "harness")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import udc
    import udc_data
    import udc_report
    import udc_rows
    import udc_trainings

    yield Namespace(main=udc, data=udc_data, trainings=udc_trainings, rows=udc_rows, report=udc_report)
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture
def toy(scripts):
    """One image, one step of everything."""
    small = {"width": 4, "steps": 2, "tune": 1, "batch": 2, "crop": 32, "window": 48, "view": 32, "images": 2, "judged": 1}
    return replace(scripts.trainings.Scale(), **small, few=1, seeds=1, attack_steps=2, queries=2, searches=1, descent=2)


@pytest.fixture
def gray(scripts, toy, tmp_path: Path):
    """A bench of two gray images, which a restorer that does nothing restores exactly."""
    images = torch.full((2, 3, 32, 32), 0.5)
    return scripts.rows.Bench([(images, images)], 1, replace(toy, attack_steps=20), tmp_path, nn.Identity())


class Flat(rr.Purifier):
    """A purifier that leaves nothing of an attack."""

    def run(self, images: Tensor) -> Tensor:
        return images * 0 + 0.5


@pytest.mark.parametrize("size", [1, 8])
def test_pgd_moves_every_pixel_of_the_identity_by_its_size(scripts, gray, size: int) -> None:
    rows = scripts.rows
    found = gray.measured(rows.Cell(rows.Contestant("identity", nn.Identity()), "PGD", size))["values"]
    wanted = -20 * torch.tensor(size / 255).log10()
    assert found["PSNR"] == pytest.approx([float(wanted)] * 2, abs=0.01)
    assert found["PSNR to own clean output"] == pytest.approx(found["PSNR"], abs=1e-4)
    assert found["L2"] == pytest.approx([size / 255 * (3 * 32 * 32) ** 0.5] * 2, rel=1e-3)
    assert max(found["Linf"]) <= size + 1e-3


def test_the_smallest_change_that_moves_the_identity_is_the_goal_itself(scripts, gray) -> None:
    rows = scripts.rows
    gray.scale = replace(gray.scale, searches=9, descent=60)
    found = gray.measured(rows.Cell(rows.Contestant("identity", nn.Identity()), "C&W", 0))["values"]
    assert found["L2"] == pytest.approx([0.1 * (3 * 32 * 32) ** 0.5] * 2, rel=0.03)  # 20 dB: 0.1 in every value
    assert max(found["PSNR to own clean output"]) <= 20.001


def test_views_tell_the_attackers_apart(scripts, gray) -> None:
    rows = scripts.rows
    who = rows.Contestant("flat", nn.Identity(), Flat())
    for view in rows.VIEWS:
        found = gray.measured(rows.Cell(who, "PGD", 4, view))["values"]
        assert min(found["PSNR"]) == 100  # nothing passes
        assert (max(found["L2"]) > 0) == (view != "adaptive")  # but those who do not know it try


def test_a_known_cell_is_read_and_one_of_other_weights_is_not(scripts, gray, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = scripts.rows
    cell = rows.Cell(rows.Contestant("shift", nn.Conv2d(3, 3, 1)), "PGD", 4)
    first = gray.measured(cell)
    monkeypatch.setattr(rr.attacks.PGD, "run", lambda *_: pytest.fail("attacked again"))
    assert gray.measured(cell) == first
    with torch.no_grad():
        cell.who.net.bias.add_(1)
    with pytest.raises(pytest.fail.Exception, match="attacked again"):
        gray.measured(cell)


def test_gains_are_paired_and_means_of_tunings(scripts) -> None:
    rows, report = scripts.rows, scripts.report
    found = report.Findings({})
    for name, seed, values in (("no defence", 0, [20.0, 30.0]), ("blur", 0, [21.0, 31.0]), ("blur", 1, [23.0, 33.0])):
        who = rows.Contestant(name, nn.Identity(), None, seed)
        found.add(rows.Cell(who, "none", 0), {"values": dict.fromkeys(rows.METRICS, values)})
    assert found.gains() == [{"defence": "blur", "against": "no defence", "differences": {"0": [2.0, 2.0, 2.0]}}]
    assert found.rows()[1]["PSNR of tunings"] == {"0": 26.0, "1": 28.0}


def test_a_black_box_that_wins_is_named(scripts) -> None:
    rows, report = scripts.rows, scripts.report
    found, who = report.Findings({}), rows.Contestant("blur", nn.Identity())
    for attack, size, value in (("PGD", 64, 9.0), ("PGD", 4, 20.0), ("Square", 4, 19.0), ("SimBA", 4, 21.0)):
        found.add(rows.Cell(who, attack, size), {"values": {key: [value] for key in rows.METRICS}})
    line = next(line for line in report.checks(found) if line.startswith("Black-box"))
    assert line.endswith("1 of 2. Exceptions: blur, Square 4/255 (19.00 against 20.00 dB).")


def test_the_script_runs_at_toy_size_and_again_without_work(scripts, toy, tmp_path: Path, monkeypatch) -> None:
    main, written = scripts.main, {}
    monkeypatch.setattr(main.harness, "write", lambda name, content: written.__setitem__(name, json.dumps(content)))
    monkeypatch.setattr(main, "PLAIN", {"no defence": "none"})
    monkeypatch.setattr(main, "TUNED", {name: main.TUNED[name] for name in ("purify + tune", "noise + tune")})
    monkeypatch.setattr(
        main, "CANDIDATES", {"purify": ("sigma", (0.02,)), "blur": ("blur", (1.0,)), "JPEG": ("quality", (50,))}
    )
    monkeypatch.setattr(main, "FEWER", ())
    monkeypatch.setattr(scripts.rows, "SIZES", (4,))
    for name, photograph in rr.assets.photographs().items():
        save_image(photograph[0, :, :64, :80], tmp_path / "photographs" / f"{name}.png")
    options = Namespace(data=tmp_path / "photographs", out=tmp_path / "out", device="cpu")
    first = main.run(options, toy, scripts.data.displays(45, 3))
    assert json.loads(written["udc"]).keys() == {*first, "choice"}
    assert {row["defence"] for row in first["rows"]} == {"no defence", "purify + tune", "noise + tune"}
    assert {row["view"] for row in first["rows"] if row["defence"] == "purify + tune"} == set(scripts.rows.VIEWS)
    assert {row["view"] for row in first["rows"] if row["defence"] == "no defence"} == {"adaptive"}
    monkeypatch.setattr(rr.attacks.PGD, "run", lambda *_: pytest.fail("attacked again"))
    monkeypatch.setattr(main, "fresh", lambda *_: [])
    again = main.run(options, toy, scripts.data.displays(45, 3))
    assert json.dumps(again["rows"]) == json.dumps(first["rows"])


def test_no_photograph_and_no_display_is_on_two_sides(scripts, tmp_path: Path) -> None:
    for name, photograph in rr.assets.photographs().items():
        save_image(photograph[0, :, :64, :64], tmp_path / "photographs" / f"{name}.png")
    made = scripts.data.pairs(tmp_path / "photographs", tmp_path / "pairs", scripts.data.displays(45, 3), 64, 64, (9, 9))
    assert [len(one.images) for one in made.values()] == [2, 1, 1]
    scenes = torch.cat([one.target for one in made.values()])
    assert len(scenes.flatten(1).unique(dim=0)) == 4
    assert torch.equal((made["test"].images * 255).round() / 255, made["test"].images)
