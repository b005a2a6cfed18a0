"""The verb distill as a person uses it."""

from pathlib import Path

from toys import photos
from typer.testing import CliRunner, Result

import robustrestore as rr
from robustrestore.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_surrogate_of_a_restorer_is_trained_and_answers_are_kept(tmp_path: Path) -> None:
    for k, image in enumerate(photos(3)):
        rr.data.save_image(image, tmp_path / "images" / f"{k}.png")
    out = tmp_path / "out"
    common = ("toys:Gain", "unet(width=4)", "--data", f"images:{tmp_path / 'images'}", "--task", "restoration", "--out", out)
    done = run("distill", *common, "--answers", "images", "--noise", "gaussian(0.1)", "--steps", 2, "--batch", 3)
    assert done.exit_code == 0, done.output
    assert "3 images answered, 3 sent" in done.output
    assert (out / "surrogate.safetensors").is_file()
    refused = run("distill", *common, "--answers", "logits")
    assert refused.exit_code == 2
    assert "those of another" in refused.output


def test_wrong_use_says_what_to_do(tmp_path: Path) -> None:
    result = run("distill", "http://127.0.0.1:9", "unet", "--data", "photographs", "--encoding", "xml", "--out", tmp_path)
    assert result.exit_code == 2
    assert "expected one of json" in result.output
