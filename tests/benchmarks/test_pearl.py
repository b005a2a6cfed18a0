"""The PEARL benchmark at toy size: a segmenter whose answers are known, three colours in the rain."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toys_colours import Brightest, write_camvid

import robustrestore as rr
from robustrestore.data.image_file import save_image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pearl_parts

    resampled = rr.metrics._resampled  # intervals cost more than all else here, and nothing is said of them
    monkeypatch.setattr(rr.metrics, "_resampled", lambda statistics: resampled(statistics, 100))
    yield pearl_parts
    for name in ("pearl_parts", "pearl_rows", "streets", "espnet", "foreign_model", "harness"):
        sys.modules.pop(name, None)


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    return write_camvid(tmp_path)


def run(parts, camvid: Path, out: Path):
    setting = parts.rows.Setting(steps=2, batch=2, precision="no", derain_steps=2, weight=0.1)
    return parts.Run(
        camvid, out, seeds=1, size=(32, 32), frames=4, setting=setting, attack_steps=2, segmenter=Brightest,
        restorer=lambda: rr.restorers.UNet(width=4),
    )  # fmt: skip


def test_rows_of_a_toy_that_small_changes_cannot_break(parts, camvid: Path, tmp_path: Path, monkeypatch) -> None:
    asked = run(parts, camvid, tmp_path / "out")
    *_, found = parts.main(asked)
    table = {row: {c: cell["mean IoU"]["value"] for c, cell in columns.items()} for row, columns in found["rows"].items()}
    assert set(table) == {*parts.LEARNT, parts.BARE, parts.BLUR, parts.BLURRED}
    assert set(table[parts.BARE].values()) == {1.0}  # rain is grey, and no column changes values by more than 0.03
    assert table[parts.rows.AT].keys() == table[parts.NAA].keys() == table[parts.BARE].keys()
    assert set(found["quality"]) == {parts.BARE, *parts.LEARNT} - set(parts.OWN)
    assert set(found["seconds"]) == set(parts.LEARNT)
    json.dumps(found)

    def refuse(*_: object) -> Tensor:
        raise AssertionError("attacked again")

    monkeypatch.setattr(rr.attacks.PGD, "run", refuse)
    row, again, _ = next(parts.by_seed(asked, asked.main, 0, asked.columns))
    assert parts.rows.summary({row: [again]})[row] == found["rows"][row]


def test_pearl_leaves_the_segmenter_as_it_was_and_nat_the_derain_network(parts, camvid: Path, tmp_path: Path) -> None:
    asked = run(parts, camvid, tmp_path / "out")
    before = asked.defence(asked.main, parts.DERAIN, 0)[1].state_dict()
    for row in (parts.NAA, parts.AMA):
        model, stage = asked.defence(asked.main, row, 0)
        assert float(model.scale.detach()) == 8.0
        assert any(not torch.equal(value, before[name]) for name, value in stage.state_dict().items())
    model, stage = asked.defence(asked.main, parts.rows.NAT, 0)
    assert float(model.scale.detach()) != 8.0
    assert all(torch.equal(value, before[name]) for name, value in stage.state_dict().items())
    model, stage = asked.defence(asked.main, parts.rows.AT, 0)
    assert stage is None
    assert float(model.scale.detach()) != 8.0


def test_verdicts_say_apart_only_where_all_seeds_agree(parts) -> None:
    def table(*right: float):
        return [{"rain": {"mean IoU": torch.tensor([[r, 1.0]]).double().numpy().repeat(9, 0),
                          "pixel accuracy": torch.ones(9, 2).numpy()}} for r in right]  # fmt: skip

    rows = parts.rows
    (one,) = rows.verdicts({rows.AMA: table(0.6, 0.7), rows.NAA: table(0.4, 0.5)}, "rain")
    (other,) = rows.verdicts({rows.AMA: table(0.6, 0.7), rows.NAA: table(0.4, 0.65)}, "rain")
    assert one["apart"]
    assert not other["apart"]
    assert one["text"].startswith("rain: PEARL + AMA against PEARL + NAA: better; mean IoU 0.650 against 0.450")


def test_few_frames_and_other_parts(parts, camvid: Path, tmp_path: Path) -> None:
    asked = run(parts, camvid, tmp_path / "out")
    *_, found = parts.few(asked, "checks", [parts.streets.cos(64, 2)], (parts.NAA,))
    assert found["rows"][parts.NAA]["CosPGD-2 64/255"]["mean IoU"]["value"] < 0.5
    (tmp_path / "norain").mkdir()
    (tmp_path / "rain100mm").mkdir()
    for k in range(2):
        picture = torch.rand(3, 32, 64, generator=torch.Generator().manual_seed(k))
        for folder in ("norain", "rain100mm"):
            save_image(picture, tmp_path / folder / f"{k}.png")
    *_, other = parts.cityscapes(parts.replace(asked, cityscapes=tmp_path))
    assert other["size"] == [32, 64]
    assert other["rows"][parts.BARE]["rain"]["mean IoU"]["value"] == 1.0  # agreement with itself
