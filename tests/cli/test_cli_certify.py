"""The verbs certify and recheck as a person uses them."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from toys import PixelSegmenter, photos
from typer.testing import CliRunner, Result

import robustrestore as rr
from robustrestore.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def camvid(root: Path) -> Path:
    from PIL import Image

    (root / "val").mkdir(parents=True)
    (root / "valannot").mkdir()
    for k, image in enumerate(photos(3, 24, 32)):
        rr.data.save_image(image, root / "val" / f"{k}.png")
        labels = PixelSegmenter()(rr.data.load_image(root / "val" / f"{k}.png")[None]).argmax(1)[0]
        Image.fromarray(labels.byte().numpy()).save(root / "valannot" / f"{k}.png")
    return root


def test_certify_label_maps_and_recheck_them(tmp_path: Path) -> None:
    out, data = tmp_path / "out", camvid(tmp_path / "camvid")
    common = (
        "--model",
        "toys:PixelSegmenter",
        "--size",
        24,
        32,
        "--noise",
        "gaussian(0.1)",
        "--n0",
        10,
        "--n",
        100,
        "--out",
        out,
    )
    result = run("certify", f"camvid:{data}", *common, "--limit", 2)
    assert result.exit_code == 0, result.output
    assert "certified pixel accuracy" in result.output
    assert "not for the base model" in " ".join(result.output.split())  # lines are broken to fit the terminal
    content = json.loads((out / "certified.json").read_text())
    assert (len(content["rows"]), content["about"]["alpha"]) == (2, 0.001)
    assert run("recheck", out).exit_code == 0
    content["rows"][0]["threshold"] -= 1
    (out / "certified.json").write_text(json.dumps(content))
    result = run("recheck", out)
    assert result.exit_code == 1
    assert "threshold: expected" in result.output


def test_certify_classes(tmp_path: Path) -> None:
    """Red, green and blue images of 3 x 4 pixels, and the model that says so: every certificate is right."""
    for label, name in enumerate(("a_red", "b_green", "c_blue")):
        image = torch.full((3, 4, 4), 0.2)
        image[label] = 0.8
        for k in range(2):
            rr.data.save_image(image, tmp_path / "classes" / name / f"{k}.png")
    data, out = f"classes:{tmp_path / 'classes'}", tmp_path / "out"
    common = ("--noise", "gaussian(0.1)", "--n0", 10, "--n", 100, "--limit", 3, "--out", out)
    result = run("certify", data, "--model", "toys_certify:Colour", *common)
    assert result.exit_code == 0, result.output
    content = json.loads((out / "certified.json").read_text())
    assert [(row["prediction"], row["target"]) for row in content["rows"]] == [(0, 0), (1, 1), (2, 2)]
    assert content["summary"]["l2 >= 0"]["value"] == 1.0
    assert run("recheck", out).exit_code == 0
    result = run("certify", data, *common)
    assert result.exit_code == 2
    assert "--model: expected one for classification" in result.output
    result = run("certify", data, "--model", "toys_certify:Colour", "--tau", 0.8, "--out", out)
    assert "--tau: expected options of classification" in result.output


def test_certify_restored_images(tmp_path: Path) -> None:
    for name, image in zip("ab", photos(2, 16, 16), strict=True):
        rr.data.save_image(image, tmp_path / "clean" / f"{name}.png")
        rr.data.save_image(image, tmp_path / "rainy" / f"{name}.png")
    pairs, out = f"pairs:{tmp_path / 'rainy'},{tmp_path / 'clean'}", tmp_path / "out"
    result = run("certify", pairs, "--noise", "gaussian(0.05)", "--eps", 0.01, "--n", 60, "--out", out)
    assert result.exit_code == 0, result.output
    assert "certified PSNR, L2 <= 0.01" in result.output
    result = run("recheck", out)
    assert result.exit_code == 0, result.output
    assert "Every certificate follows" in result.output
    result = run("certify", pairs, "--tau", 0.8, "--n0", 5, "--out", tmp_path / "no")
    assert result.exit_code == 2
    assert "--n0, --tau: expected options of restoration" in result.output
    result = run("certify", "pairs:nowhere,nowhere", "--alpha", 2)
    assert "alpha: expected a probability in (0, 1), got 2" in result.output  # before anything is loaded
    assert run("certify", pairs, "--noise", "laplace(0.1)", "--out", tmp_path / "no").exit_code == 2


def test_the_command_runs_as_a_module_as_torchrun_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And --n has a longer name: torchrun takes --n for one of its own."""
    rr.data.save_image(torch.full((3, 4, 4), 0.5), tmp_path / "classes" / "a" / "0.png")
    words = ["certify", f"classes:{tmp_path / 'classes'}", "--model", "toys_certify:Colour", "--n0", "2", "--draws", "3"]
    monkeypatch.setattr(sys, "argv", ["robustrestore", *words, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped, pytest.warns(UserWarning, match="n = 3"):
        runpy.run_module("robustrestore.cli", run_name="__main__")
    assert stopped.value.code == 0
    assert json.loads((tmp_path / "out" / "certified.json").read_text())["about"]["draws"] == [2, 3]
