"""The benchmark of `recipes.Recommended` at toy size: a segmenter whose answers are known, three colours in the rain."""

import argparse
import json
import sys
from pathlib import Path

import pytest
from toys_colours import Brightest, write_camvid

import robustrestore as rr

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import recommended

    monkeypatch.setattr(recommended.harness, "RESULTS", tmp_path)
    monkeypatch.setattr(recommended.streets, "segmenter", Brightest)
    small = recommended._row(lambda: rr.restorers.UNet(width=4), recipe="ours")
    monkeypatch.setitem(recommended.ROWS, recommended.OURS, small)
    yield recommended
    for name in ("recommended", "streets", "harness"):
        sys.modules.pop(name, None)


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    return write_camvid(tmp_path)


def test_rows_of_a_toy_that_small_changes_cannot_break(bench, camvid: Path, tmp_path: Path) -> None:
    options = argparse.Namespace(
        data=camvid, out=tmp_path / "out", seeds=2, only=[bench.BARE, bench.AT, bench.OURS], scale="small", device="cpu"
    )
    setting = bench.Setting(steps=2, batch=2, precision="no")
    bench.streets.STEPS = 2
    bench.run(options, setting, False, (32, 32))
    found = json.loads((tmp_path / "recommended.json").read_text(encoding="utf-8"))
    assert list(found["rows"]) == options.only
    assert {row: list(seeds) for row, seeds in found["seeds"].items()} == {
        bench.BARE: ["0"],
        bench.AT: ["0", "1"],
        bench.OURS: ["0", "1"],
    }
    worst = found["about"]["worst"]
    for row in (bench.BARE, bench.AT):  # 4/255 is less than half of what lies between the channels
        assert found["rows"][row][worst]["mean IoU"][0] == 1.0
        assert "Square 8/255" in found["rows"][row]
    assert any(text.startswith(f"{worst}: {bench.OURS} against {bench.AT}") for text in found["verdicts"])
    before = (tmp_path / "recommended.json").read_text(encoding="utf-8")
    bench.run(options, setting, False, (32, 32))  # all of it is kept: the same once more
    assert (tmp_path / "recommended.json").read_text(encoding="utf-8") == before


def test_every_row_makes_a_pipeline_and_trains_what_it_says(bench) -> None:
    for name, make in bench.ROWS.items():
        pipeline, recipe = make(bench.Setting())
        assert isinstance(pipeline, rr.DefendedPipeline)
        assert (recipe is None) == (name == bench.BARE)
    _, mild = bench.ROWS[bench.MILD](bench.Setting())
    assert mild.attack.threat.eps == pytest.approx(1 / 255)
    _, behind = bench.ROWS[bench.BEHIND](bench.Setting())
    assert behind.trained is behind.model.model
