"""Scoring on images that were attacked before: the same images for every defence, and plain words on whom they aim at."""

from pathlib import Path

import pytest
import torch
from toys import PixelSegmenter, photos

import robustrestore as rr
from robustrestore.adversarial_set import AdversarialSet, craft
from robustrestore.score import score

TASK = rr.tasks.Segmentation()
ATTACK = rr.attacks.PGD(rr.Linf(8 / 255), steps=3)
BLUR = rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.Blur(sigma=2.0)])


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(x, PixelSegmenter()(x).argmax(1)) for x in photos(10).split(4)]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> AdversarialSet:
    return craft(PixelSegmenter(), batches(), TASK, ATTACK, tmp_path_factory.mktemp("bare"))


def measured(model: object, images: list[torch.Tensor]) -> float:
    metric = TASK.metrics()[0]
    with torch.no_grad():
        found = [metric.measure(model(x), y) for x, (_, y) in zip(images, batches(), strict=True)]
    return metric.value(torch.cat(found).numpy())


def test_rows_are_the_metrics_of_these_very_images(bare: AdversarialSet) -> None:
    told: list[tuple[int, int]] = []
    report = score(BLUR, bare, baselines=[rr.purifiers.Jpeg()], progress=lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [(r.defence, r.attack, r.view, r.count) for r in report.rows] == [
        (name, attack, "-" if attack == "none" or name == "none" else "oblivious", 10)
        for name in ("none", "Blur", "Jpeg")
        for attack in ("none", repr(ATTACK))
    ]
    attacked, clean = [images for images, _ in bare], [images for images, _ in batches()]
    assert report.row("none", "-", repr(ATTACK)).values["mean IoU"] == pytest.approx(measured(PixelSegmenter(), attacked))
    assert report.row("Blur", "oblivious").values["mean IoU"] == pytest.approx(measured(BLUR, attacked))
    assert report.row("Blur", "-", "none").values["mean IoU"] == pytest.approx(measured(BLUR, clean))
    assert report.row("none", "-", "none").values["mean IoU"] == 1
    second = score(rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.BitDepth(4)]), bare)
    assert second.row("none", "-", repr(ATTACK)) == report.row("none", "-", repr(ATTACK))


def test_the_report_says_whom_the_images_were_made_for(bare: AdversarialSet, tmp_path: Path) -> None:
    said = " ".join(score(BLUR, bare).verdicts)
    assert "Not made against Blur: these images were made against toys.PixelSegmenter by PGD(threat=Linf(eps=8/255)" in said
    assert "nothing of an attacker who aims at it" in said
    assert "Made against the bare model." in said
    assert "On these images, Blur against no defence" in said
    for view, model in (("adaptive", BLUR), ("bpda", BLUR.straight_through())):
        made = craft(model, batches(), TASK, ATTACK, tmp_path / view)
        own = score(BLUR, made)
        assert own.row("Blur", view).count == 10
        assert f"Made against Blur ({view})." in own.verdicts
        assert own.row("none", "transfer").count == 10
        assert "Not made against the bare model" in " ".join(own.verdicts)
        other = score(rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.Blur(sigma=1.0)]), made)
        assert other.row("Blur", "transfer").count == 10
        assert "Not made against Blur" in " ".join(other.verdicts)


def test_two_defences_of_one_name_keep_their_rows_and_a_bare_model_needs_none(bare: AdversarialSet) -> None:
    report = score(BLUR, bare, baselines=[rr.purifiers.Blur(sigma=0.5)])
    assert {row.defence for row in report.rows} == {"none", "Blur #1", "Blur #2"}
    alone = score(rr.DefendedPipeline(PixelSegmenter(), []), bare)
    assert [row.defence for row in alone.rows] == ["none", "none"]
    assert alone.verdicts == ["Made against the bare model."]


def test_the_report_can_be_saved_and_repeats(bare: AdversarialSet, tmp_path: Path) -> None:
    noisy = rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.Diffusion.default().replace(seed=None)])
    first, second, other = (score(noisy, bare, seed=seed) for seed in (0, 0, 1))
    assert first.json() == second.json()
    assert first.rows != other.rows
    first.save(tmp_path)
    assert (tmp_path / "overview.png").is_file()
    assert "counts" in (tmp_path / "report.json").read_text()


def test_slips_and_damage_are_named(bare: AdversarialSet, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"write DefendedPipeline\(model, \[\]\)"):
        score(PixelSegmenter(), bare)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="outputs: expected logits"):
        score(BLUR, bare, rr.tasks.Classification())
    made = craft(PixelSegmenter(), batches(), TASK, ATTACK, tmp_path)
    (tmp_path / "batch-000002.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"batch-000002\.safetensors: expected SHA-256"):
        score(BLUR, made)
