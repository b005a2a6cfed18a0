"""The protocol: rows, views, known answers, resuming, and verdicts that admit a loss."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import Gain, Linear2, Moody, PixelSegmenter, photos

import robustrestore as rr
from robustrestore.evaluate import VIEWS

EPS = 4 / 255
PGD = rr.attacks.PGD(rr.Linf(EPS), steps=3)


class Wall(rr.Purifier):
    """Keeps the coarse structure only, by rounding without a gradient of its own: BPDA and adaptive views agree."""

    def run(self, images: Tensor) -> Tensor:
        return rr.images.straight_through((images * 4).round() / 4, images)


def _segmentation(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    images = photos(count)
    return [(part, PixelSegmenter()(part).argmax(1)) for part in images.split(2)]


def test_rows_views_and_known_values() -> None:
    pipeline = rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.BitDepth(3)])
    report = rr.evaluate(pipeline, _segmentation(), rr.tasks.Segmentation(), [PGD], baselines=[rr.purifiers.Blur()])
    keys = {(row.defence, row.view) for row in report.rows}
    views = {"-", "oblivious", "bpda", "adaptive", "worst"}
    assert keys == {("none", "-"), ("none", "worst"), *(("BitDepth", v) for v in views), *(("Blur", v) for v in views)}
    assert {row.count for row in report.rows} == {4}
    clean = report.row("none", "-", "none")
    assert clean.values == {"mean IoU": 1.0, "pixel accuracy": 1.0}
    assert report.row("none", "-", repr(PGD)).values["pixel accuracy"] < 1


def test_adaptive_is_at_least_as_strong_as_oblivious_on_a_differentiable_defence() -> None:
    pipeline = rr.DefendedPipeline(Gain(1.0), [rr.purifiers.Blur(1.5)])
    batches = [(photos(3), photos(3))]
    attack = rr.attacks.PGD(rr.Linf(EPS), steps=12)
    report = rr.evaluate(pipeline, batches, rr.tasks.Restoration(), [attack])
    assert report.row("Blur", "adaptive").values["PSNR"] <= report.row("Blur", "oblivious").values["PSNR"] + 1e-6


def test_worst_is_no_better_than_any_view() -> None:
    pipeline = rr.DefendedPipeline(Linear2(), [rr.purifiers.Median()])
    images = photos(8, 6, 6)
    batches = [(images, Linear2()(images).argmax(1))]
    attacks = [rr.attacks.FGSM(rr.Linf(0.2)), rr.attacks.PGD(rr.L2(0.8), steps=4)]
    report = rr.evaluate(pipeline, batches, rr.tasks.Classification(), attacks)
    for name in ("none", "Median"):
        rows = [row.values["accuracy"] for row in report.rows if row.defence == name and row.view != "worst"]
        assert report.row(name, "worst").values["accuracy"] <= min(rows)


def test_worst_of_a_pooled_metric_is_no_better_than_any_row() -> None:
    for seed in range(5):
        images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
        pipeline = rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.Jpeg()])
        attacks = [rr.attacks.PGD(rr.Linf(8 / 255), steps=1, seed=k) for k in range(2)]
        report = rr.evaluate(pipeline, [(images, PixelSegmenter()(images).argmax(1))], rr.tasks.Segmentation(), attacks)
        rows = [row.values["mean IoU"] for row in report.rows if row.defence == "Jpeg" and row.view != "worst"]
        assert report.row("Jpeg", "worst").values["mean IoU"] <= min(rows) + 1e-12


def test_a_defence_that_gives_nan_does_not_score() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images * float("nan")

    pipeline = rr.DefendedPipeline(PixelSegmenter(), [rr.restorers.Network(Broken())])
    with pytest.raises(ValueError, match="expected finite values"):
        rr.evaluate(pipeline, _segmentation(), rr.tasks.Segmentation(), [PGD])


def test_a_view_of_another_model_is_attacked_for_itself() -> None:
    calls = []

    class Other(PixelSegmenter):
        def forward(self, images: Tensor) -> Tensor:
            calls.append(len(images))
            return super().forward(images)

    other = rr.DefendedPipeline(Other())
    pipeline = rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.Blur()])
    rr.evaluate(pipeline, _segmentation(), rr.tasks.Segmentation(), [PGD], views={"transfer": lambda p: other.predict})
    assert calls


def test_images_of_two_sizes_and_baselines_without_stages() -> None:
    batches = [(photos(1, 16, 20), photos(1, 16, 20)), (photos(1, 24, 12), photos(1, 24, 12))]
    report = rr.evaluate(rr.DefendedPipeline(Gain()), batches, rr.tasks.Restoration(), [PGD], baselines=[rr.purifiers.Blur()])
    assert {row.defence for row in report.rows} == {"none", "Blur"}
    assert report.pictures["input"].shape == (1, 3, 16, 20)


def test_few_images_get_no_verdict() -> None:
    pipeline = rr.DefendedPipeline(Gain(), [rr.purifiers.BitDepth(2)])
    report = rr.evaluate(pipeline, [(photos(2), photos(2))], rr.tasks.Restoration(), [PGD])
    verdicts = [said for said in report.verdicts if not said.startswith("Weak attack")]
    assert len(verdicts) == 2
    assert all("too few images for a verdict (2, at least 8)" in verdict for verdict in verdicts)


def test_a_false_verdict_is_rare() -> None:
    from robustrestore.metrics import paired_difference

    metric, rng, wrong = rr.metrics.psnr(), np.random.default_rng(0), 0
    for _ in range(300):
        first, second = (np.stack([rng.normal(size=8), np.ones(8)], axis=1) for _ in range(2))
        _, (low, high) = paired_difference(metric, first, second)
        wrong += low > 0 or high < 0
    assert wrong / 300 < 0.09


def test_another_view_or_model_does_not_pass_for_the_journal_of_the_first(tmp_path: Path) -> None:
    pipeline = rr.DefendedPipeline(nn.Identity(), [rr.purifiers.Blur()])
    batches = [(photos(), photos())]
    rr.evaluate(pipeline, batches, rr.tasks.Restoration(), [PGD], views={"a": lambda p: p}, folder=tmp_path)
    with pytest.raises(ValueError, match=r"differs in \['views'\]"):
        rr.evaluate(pipeline, batches, rr.tasks.Restoration(), [PGD], views={"a": lambda p: p.predict}, folder=tmp_path)
    other = pipeline.replace(model=nn.Hardtanh(0, 1))
    with pytest.raises(ValueError, match="model"):
        rr.evaluate(other, batches, rr.tasks.Restoration(), [PGD], views={"a": lambda p: p}, folder=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pipeline": PixelSegmenter()}, "expected a DefendedPipeline, got PixelSegmenter"),
        ({"task": rr.tasks.Segmentation}, "expected a task"),
        ({"attacks": PGD}, "expected a list of attacks"),
        ({"batches": (photos(), photos())}, "one pair of tensors"),
        ({"batches": [(photos(), [0, 1])]}, "expected the target as a tensor, got list: use torch.as_tensor"),
        ({"views": [lambda p: p]}, "expected a mapping of names to functions of the pipeline, got list"),
        ({"batches": [photos()]}, "expected \\(images, target\\) pairs, got Tensor"),
    ],
)
def test_the_usual_slips_are_named(change: dict[str, object], message: str) -> None:
    arguments = {"pipeline": rr.DefendedPipeline(PixelSegmenter()), "task": rr.tasks.Segmentation(), "attacks": [PGD]}
    with pytest.raises(TypeError, match=message):
        rr.evaluate(**{"batches": _segmentation(), **arguments, **change})


def test_a_further_view_gets_its_rows() -> None:
    pipeline = rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.BitDepth(3)])
    views = {**VIEWS, "surrogate": lambda p: p.replace(stages=[rr.purifiers.Blur(0.5)])}
    report = rr.evaluate(pipeline, _segmentation(), rr.tasks.Segmentation(), [PGD], views=views)
    assert report.row("BitDepth", "surrogate").count == 4


def test_a_defence_that_a_blur_matches_is_reported_so() -> None:
    pipeline = rr.DefendedPipeline(Gain(), [rr.purifiers.BitDepth(2)])
    batches = [(image, image) for image in photos(9, 24, 24).split(3)]
    report = rr.evaluate(pipeline, batches, rr.tasks.Restoration(), [PGD], baselines=[rr.purifiers.Blur(0.5)])
    assert any(v.startswith("Worst case, BitDepth against Blur (baseline): worse") for v in report.verdicts)
    assert any("Without attack, BitDepth against no defence: worse" in v for v in report.verdicts)


def test_modes_gradients_and_generator_are_left_alone() -> None:
    model = Moody().train()
    model.drop.eval()
    pipeline = rr.DefendedPipeline(model, [rr.purifiers.Blur()])
    before = {name: tensor.clone() for name, tensor in pipeline.state_dict().items()}
    target = torch.zeros(2, 16, 20, dtype=torch.long)
    state = torch.random.get_rng_state()
    rr.evaluate(pipeline, [(photos(), target)], rr.tasks.Segmentation(), [PGD])
    assert model.norm.training
    assert not model.drop.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipeline.state_dict().items())


def test_a_random_defence_repeats_under_one_seed() -> None:
    denoiser = rr.diffusion.SigmaUNet(width=4)
    pipeline = rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.Diffusion(denoiser, sigma=0.2, seed=None)])
    reports = [rr.evaluate(pipeline, _segmentation(), rr.tasks.Segmentation(), [PGD], seed=s).json() for s in (1, 1, 2)]
    assert reports[0] == reports[1]
    assert json.loads(reports[0])["rows"] != json.loads(reports[2])["rows"]


def test_without_stages_there_is_only_the_undefended_model() -> None:
    report = rr.evaluate(rr.DefendedPipeline(PixelSegmenter()), _segmentation(), rr.tasks.Segmentation(), [PGD])
    assert {row.defence for row in report.rows} == {"none"}
    assert report.verdicts == []


@pytest.mark.parametrize(
    ("batches", "task", "message"),
    [
        ([], rr.tasks.Segmentation(), "at least one"),
        ([(photos() * 255, torch.zeros(2, 16, 20).long())], rr.tasks.Segmentation(), r"values in \[0, 1\]"),
        ([(photos() * float("nan"), torch.zeros(2, 16, 20).long())], rr.tasks.Segmentation(), "finite"),
        ([(photos(), torch.full((2, 16, 20), 2))], rr.tasks.Segmentation(), r"labels 0\.\.1 or 255"),
        ([(photos(), torch.zeros(2, 8, 8).long())], rr.tasks.Segmentation(), "expected labels"),
        ([(photos(), torch.tensor([0, 1]))], rr.tasks.Classification(), "wrong task"),
        ([(photos(), photos())], rr.tasks.Restoration(), "outputs"),
    ],
)
def test_bad_input(batches: list[tuple[Tensor, Tensor]], task: rr.Task, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rr.evaluate(rr.DefendedPipeline(PixelSegmenter(), [Wall()]), batches, task, [PGD])


def test_float_labels_are_refused() -> None:
    with pytest.raises(TypeError, match="integer labels"):
        rr.evaluate(rr.DefendedPipeline(PixelSegmenter()), [(photos(), torch.zeros(2, 16, 20))], rr.tasks.Segmentation(), [PGD])


def test_resuming_gives_the_same_json_and_redoes_nothing(tmp_path: Path) -> None:
    calls = []

    class Counting(PixelSegmenter):
        def forward(self, images: Tensor) -> Tensor:
            calls.append(len(images))
            return super().forward(images)

    pipeline = rr.DefendedPipeline(Counting(), [rr.purifiers.Blur()])
    whole = rr.evaluate(pipeline, _segmentation(8), rr.tasks.Segmentation(), [PGD]).json()

    def broken():
        yield from _segmentation(8)[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rr.evaluate(pipeline, broken(), rr.tasks.Segmentation(), [PGD], folder=tmp_path)
    calls.clear()
    resumed = rr.evaluate(pipeline, _segmentation(8), rr.tasks.Segmentation(), [PGD], folder=tmp_path)
    assert resumed.json() == whole
    per_batch = len(calls) / 2  # two of four batches were left
    calls.clear()
    assert rr.evaluate(pipeline, _segmentation(8), rr.tasks.Segmentation(), [PGD], folder=tmp_path).json() == whole
    assert calls == []
    assert per_batch > 4


def test_another_evaluation_does_not_mix_into_a_folder(tmp_path: Path) -> None:
    pipeline = rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.Blur()])
    rr.evaluate(pipeline, _segmentation(), rr.tasks.Segmentation(), [PGD], folder=tmp_path)
    with pytest.raises(ValueError, match=r"differs in \['seed'\]"):
        rr.evaluate(pipeline, _segmentation(), rr.tasks.Segmentation(), [PGD], seed=1, folder=tmp_path)
    moved = [(images.flip(0), target.flip(0)) for images, target in _segmentation()]
    with pytest.raises(ValueError, match="same images"):
        rr.evaluate(pipeline, moved, rr.tasks.Segmentation(), [PGD], folder=tmp_path)


SCRIPT = """
import sys, time, torch, robustrestore as rr
sys.path.insert(0, {tests!r})
from toys import PixelSegmenter, photos
class Slow(PixelSegmenter):
    def forward(self, images):
        time.sleep(0.02)
        return super().forward(images)
images = photos(12)
batches = [(part, PixelSegmenter()(part).argmax(1)) for part in images.split(2)]
report = rr.evaluate(rr.DefendedPipeline(Slow(), [rr.purifiers.Blur()]), batches, rr.tasks.Segmentation(),
                     [rr.attacks.PGD(rr.Linf(4 / 255), steps=3)], folder={folder!r})
report.save({out!r})
"""


def test_killed_in_the_middle_and_run_again(tmp_path: Path) -> None:
    tests = str(Path(__file__).parent)

    def script(name: str) -> list[str]:
        folder, out = str(tmp_path / name / "progress"), str(tmp_path / name)
        return [sys.executable, "-c", SCRIPT.format(tests=tests, folder=folder, out=out)]

    first = subprocess.Popen(script("killed"))
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed" / "progress").glob("batch-*.safetensors")):
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "killed" / "progress").glob("batch-*.safetensors")}
    assert 1 <= len(kept) < 6
    subprocess.run(script("killed"), check=True)
    subprocess.run(script("whole"), check=True)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "killed" / "progress").glob("batch-*.safetensors")}
    assert len(after) == 6
    assert {name: after[name] for name in kept} == kept
    assert (tmp_path / "killed" / "report.json").read_bytes() == (tmp_path / "whole" / "report.json").read_bytes()


def test_named_baselines_keep_their_names_and_two_of_a_class_stay_apart() -> None:
    images = photos(8, 6, 6)
    batches = [(images, Linear2()(images).argmax(1))]
    named = {"weak": rr.purifiers.Blur(0.5), "strong": rr.purifiers.Blur(3.0)}
    report = rr.evaluate(rr.DefendedPipeline(Linear2()), batches, rr.tasks.Classification(), [PGD], baselines=named)
    plain = rr.evaluate(
        rr.DefendedPipeline(Linear2()), batches, rr.tasks.Classification(), [PGD], baselines=list(named.values())
    )
    assert {row.defence for row in report.rows} == {"none", "weak", "strong"}
    assert report.row("strong", "adaptive").values == plain.row("Blur #2", "adaptive").values


@pytest.mark.parametrize("name", ["none", "Median"])
def test_a_baseline_may_not_take_the_name_of_the_pipeline_or_of_no_defence(name: str) -> None:
    pipeline, batches = rr.DefendedPipeline(Linear2(), [rr.purifiers.Median()]), [(photos(2, 6, 6), torch.zeros(2).long())]
    with pytest.raises(ValueError, match=f"other names than .*{name}"):
        rr.evaluate(pipeline, batches, rr.tasks.Classification(), [PGD], baselines={name: rr.purifiers.Blur()})


def test_statistics_of_a_report_give_its_rows_again() -> None:
    report = rr.evaluate(
        rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.Blur()]), _segmentation(), rr.tasks.Segmentation(), [PGD]
    )
    metric = rr.tasks.Segmentation().metrics()[0]
    assert len(report.statistics) == len(report.rows)
    for row in report.rows:
        found = report.statistics[row.defence, row.attack, row.view][metric.name]
        assert len(found) == row.count
        assert metric.value(found) == row.values[metric.name]
