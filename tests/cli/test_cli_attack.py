"""The verbs attack, score and list as a person uses them."""

import json
from pathlib import Path

import pytest
from PIL import Image
from toys import PixelSegmenter, photos
from typer.testing import CliRunner, Result

import robustrestore as rr
from robustrestore import registry
from robustrestore.adversarial_set import AdversarialSet
from robustrestore.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    root = tmp_path / "camvid"
    (root / "val").mkdir(parents=True)
    (root / "valannot").mkdir()
    for k, image in enumerate(photos(5, 36, 48)):
        rr.data.save_image(image, root / "val" / f"{k}.png")
        labels = PixelSegmenter()(rr.data.load_image(root / "val" / f"{k}.png")[None]).argmax(1)[0]
        Image.fromarray(labels.byte().numpy()).save(root / "valannot" / f"{k}.png")
    return root


def attack(camvid: Path, out: Path, *more: object) -> Result:
    common = ("--model", "toys:PixelSegmenter", "--size", 36, 48, "--batch", 2, "--attack", "pgd(linf(8/255), steps=2)")
    return run("attack", f"camvid:{camvid}", "--out", out, *common, *more)


def test_attack_keeps_images_and_goes_on_and_score_reads_them(camvid: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    result = attack(camvid, out, "--limit", 3)
    assert result.exit_code == 0, result.output
    assert "PGD(threat=Linf(eps=8/255), steps=2" in result.output
    assert "of 3 images" in result.output
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    (out / "manifest.json").unlink()
    (out / "batch-000001.safetensors").unlink()
    assert attack(camvid, out, "--limit", 3).exit_code == 0
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert AdversarialSet(out).manifest["notes"]["view"] == "oblivious"
    scored = run("score", out, "--stage", "blur", "--baseline", "jpeg(quality=30)", "--out", tmp_path / "report")
    assert scored.exit_code == 0, scored.output
    for word in ("Not made against Blur", "Jpeg", "oblivious", "Wrote"):
        assert word in scored.output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {row["defence"] for row in report["rows"]} == {"none", "Blur", "Jpeg"}
    assert (tmp_path / "report" / "report.html").is_file()


def test_a_defence_that_the_attacker_knows(camvid: Path, tmp_path: Path) -> None:
    result = attack(camvid, tmp_path / "set", "--limit", 2, "--stage", "blur(sigma=1.5)", "--view", "adaptive", "--eight-bit")
    assert result.exit_code == 0, result.output
    assert "Saving with 8 bits undid" in result.output
    assert "against DefendedPipeline(model=PixelSegmenter, stages=[Blur(sigma=1.5)])" in result.output
    scored = run("score", tmp_path / "set", "--stage", "blur(sigma=1.5)", "--baseline", "none", "--out", tmp_path / "report")
    assert "Made against Blur (adaptive)." in scored.output


def test_bad_input_is_one_clear_line(camvid: Path, tmp_path: Path) -> None:
    for more, message in (
        (("--view", "clever"), "--view clever: expected one of oblivious, bpda, adaptive"),
        (("--view", "adaptive"), "need a --stage"),
        (("--stage", "wash"), "no part is called 'wash'"),
        (("--degrade", "snow"), "no part is called 'snow'"),
    ):
        result = attack(camvid, tmp_path / "set", *more)
        assert result.exit_code == 2, result.output
        assert message in result.output
        assert "Traceback" not in result.output
    assert not (tmp_path / "set").exists()
    missing = run("score", tmp_path / "nowhere")
    assert missing.exit_code == 2
    assert "expected a finished adversarial set" in missing.output
    attack(camvid, tmp_path / "set", "--limit", 2)
    (tmp_path / "set" / "batch-000000.safetensors").write_bytes(b"x")
    damaged = run("score", tmp_path / "set", "--stage", "blur", "--baseline", "none", "--out", tmp_path / "report")
    assert damaged.exit_code == 2
    assert "batch-000000.safetensors" in damaged.output.replace("\n", "")


def test_list_of_a_kind_says_what_each_part_is_and_fits() -> None:
    listed = run("list", "attacks")
    assert listed.exit_code == 0, listed.output
    rows = {line.split("│")[1].strip(): line for line in listed.output.splitlines() if line.count("│") >= 4}
    assert set(registry_names("attacks")) <= set(rows)
    assert "classification, segmentation, restoration" in rows["pgd"]
    assert "Madry" in rows["pgd"]
    assert "segmentation" not in rows["foolbox"]
    assert "│ classification, segmentation │" in " ".join(rows["torchattacks"].split())
    purifiers = run("list", "purifiers")
    assert "median" in purifiers.output
    assert "pgd" not in purifiers.output
    unknown = run("list", "attack")
    assert unknown.exit_code == 2
    assert "attack: expected a kind of part among attacks, class_terms" in unknown.output


def registry_names(kind: str) -> list[str]:
    return [entry.name for entry in registry.entries(kind)]


def test_a_plug_in_that_does_not_import_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    real, broken = registry.entries, registry.Entry("attacks", "broken", "nowhere:Broken", "elsewhere")
    monkeypatch.setattr(registry, "entries", lambda kind=None: [broken, *real(kind)])
    listed = run("list", "attacks")
    assert listed.exit_code == 0, listed.output
    assert "no part is called 'broken'" in listed.output
    assert "pgd" in listed.output
