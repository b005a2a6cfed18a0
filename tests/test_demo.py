"""The demo tells both stories, and a second run redoes nothing."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from toys import photos
from typer.testing import CliRunner

import robustrestore as rr
from robustrestore import attacks, demo
from robustrestore.cli import app


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "STEPS", 1)
    small = {name: image[..., 64:112, 64:128] for name, image in rr.assets.photographs().items()}
    monkeypatch.setattr(rr.assets, "photographs", lambda: small)


@pytest.mark.usefixtures("quick")
def test_restoration_story(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    for word in ("oblivious", "bpda", "adaptive", "worst", "--data camvid:FOLDER"):
        assert word in result.output
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page
    assert "http" not in page
    assert Image.open(tmp_path / "overview.png").width > 400
    before = (tmp_path / "report.json").read_bytes()
    report = json.loads(before)
    assert {row["count"] for row in report["rows"]} == {4}
    assert CliRunner().invoke(app, ["demo", "--out", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "report.json").read_bytes() == before


@pytest.mark.usefixtures("quick")
def test_segmentation_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    monkeypatch.setattr(rr.assets, "STREET_SIZE", (32, 32))
    for folder in ("val", "valannot"):
        (tmp_path / "camvid" / folder).mkdir(parents=True)
    for k, image in enumerate(photos(2, 32, 32)):
        rr.data.save_image(image, tmp_path / "camvid" / "val" / f"{k}.png")
        Image.fromarray(torch.full((32, 32), k, dtype=torch.uint8).numpy()).save(tmp_path / "camvid" / "valannot" / f"{k}.png")
    report = demo.segmentation(tmp_path / "camvid", tmp_path / "out", "cpu", lambda items, what: items)
    assert report.row("Diffusion > UNet", "adaptive").count == 2
    assert (tmp_path / "out" / "overview.png").is_file()


def test_the_attack_of_the_demo_is_the_one_that_it_names() -> None:
    assert repr(demo.attack()) == repr(attacks.PGD(rr.Linf(4 / 255), steps=10))
