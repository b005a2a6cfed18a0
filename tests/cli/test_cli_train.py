"""Trainings from the command line: every example configuration runs at toy size, wrong ones are named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from toys import photos
from typer.testing import CliRunner, Result

import robustrestore as rr
from robustrestore.cli import app
from robustrestore.training import config as configs
from robustrestore.weights import load_weights

CONFIGS = sorted((Path(__file__).parents[2] / "examples" / "configs").glob("*.toml"))
TINY = {"pearl_camvid": ("unet(width=4)",), "nat_camvid": ("unet(width=4)",), "udc_purify_finetune": ("diffusion(steps=1)",)}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Streets as in CamVid with labels of three classes, and photographs."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        (root / f"{split}annot").mkdir()
        for k, image in enumerate(photos(4, 36, 48)):
            rr.data.save_image(image, root / split / f"{k}.png")
            Image.fromarray(image.argmax(0).byte().numpy()).save(root / f"{split}annot" / f"{k}.png")
    return root


def _toy(config: Path, data: Path, out: Path) -> list[object]:
    """Options that make a configuration small."""
    name = config.stem
    changes = ["plan.steps=2", "plan.batch=2", "plan.every=1"]
    if "camvid" in name:
        changes += [f"data.source=camvid:{data}", "data.size=[24, 32]", "model=toys_recipes:segmenter"]
    else:
        displays = [f"under_display(poled(size=5, seed={seed}))" for seed in (1, 2)]
        changes += [f"data.source=scenes:{data / 'train'}", f"validate.source=scenes:{data / 'val'}", "model=nafnet(width=4)"]
        changes += [f"data.degrade={json.dumps(displays)}", f"validate.degrade={displays[0]}", "validate.crop=[16, 16]"]
    if "crop" in config.read_text(encoding="utf-8"):
        changes += ["data.crop=[16, 16]"]
    if "[validate]" in config.read_text(encoding="utf-8"):
        changes += ["validate.limit=2"]
    if name in TINY:
        changes += [f"stages={json.dumps(TINY[name])}"]
    if name == "distill_purifier_camvid":
        changes += ["recipe.student=unet(width=4)"]
    if "weights" in config.read_text(encoding="utf-8"):
        weights = out.parent / "start.safetensors"
        from safetensors.torch import save_file

        with rr.seeded(3):
            save_file(rr.restorers.NAFNet(width=4).state_dict(), weights)
        changes += [f"weights.model={weights}"]
    return [word for change in changes for word in ("--set", change)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_every_example_configuration_runs_and_is_taken_up_again(config: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["train", "--config", config, *_toy(config, data, out), "--out", out]
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "| step | loss |" in result.output
    history = rr.History.from_json((out / "history.json").read_text(encoding="utf-8"))
    assert [row["step"] for row in history.rows] == [1, 2]
    assert ("[validate]" in config.read_text(encoding="utf-8")) == bool(history.validations)
    assert (out / "history.svg").read_text(encoding="utf-8").startswith("<svg")
    assert (out / "pipeline" / "config.json").is_file()
    before = (out / "trained.safetensors").read_bytes()
    assert run(*words).exit_code == 0
    assert (out / "trained.safetensors").read_bytes() == before


@pytest.mark.slow
def test_two_processes_train_as_one_does_but_for_batch_statistics(data: Path, tmp_path: Path) -> None:
    config = next(one for one in CONFIGS if one.stem == "pearl_camvid")
    words = [str(w) for w in ("train", "--config", config, *_toy(config, data, tmp_path / "out"), "--set", "plan.batch=4")]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    assert run(*words, "--out", one).exit_code == 0
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*start, "-m", "robustrestore.cli", *words, "--out", two], env=env, check=True, timeout=500)
    found = [load_file(Path(folder) / "trained.safetensors") for folder in (one, two)]
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, atol=1e-3, rtol=1e-2)


def test_there_are_configurations_and_each_says_how_it_is_run() -> None:
    assert len(CONFIGS) >= 6
    for config in CONFIGS:
        assert f"--config examples/configs/{config.name}" in config.read_text(encoding="utf-8")


def test_finetune_by_options_is_the_library_call(data: Path, tmp_path: Path) -> None:
    words = ["finetune", "pearl", "--data", f"camvid:{data}", "--model", "toys_recipes:segmenter", "--stage", "unet(width=4)"]
    words += ["--degrade", "rain", "--size", 24, 32, "--steps", 3, "--batch", 2, "--setting", "weight=0.5", "--out", tmp_path]
    words += ["--setting", "goal=mirror_goal(ama(linf(4/255)))", "--lr", 0.01]
    result = run(*words)
    assert result.exit_code == 0, result.output
    from toys_recipes import segmenter

    with rr.seeded(0):
        pipeline = rr.DefendedPipeline(segmenter(), [rr.restorers.UNet(width=4)])
    streets = rr.data.Degraded(rr.data.CamVid(data, "train", (24, 32)), rr.degradations.Rain())
    rr.finetune(
        pipeline,
        streets,
        rr.recipes.PEARL,
        rr.Plan(steps=3, batch=2, optimiser=rr.AdamW(lr=0.01)),
        quiet=True,
        task=rr.tasks.Segmentation(),
        goal=rr.recipes.MirrorGoal(rr.attacks.AMA(rr.Linf(4 / 255))),
        weight=0.5,
    )
    found = load_file(tmp_path / "trained.safetensors")
    assert found.keys() == pipeline.stages[0].state_dict().keys()
    for name, tensor in pipeline.stages[0].state_dict().items():
        assert torch.equal(tensor, found[name])
    fresh = rr.restorers.UNet(width=4)
    load_weights(fresh, tmp_path / "trained.safetensors")
    saved = rr.DefendedPipeline.from_pretrained(tmp_path / "pipeline", {"model": segmenter()})
    image = photos(1)
    with torch.no_grad():
        assert torch.equal(saved(image), rr.DefendedPipeline(segmenter(), [fresh]).eval()(image))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["recipe.name=perl"], "no part is called 'perl'"),
        (["recipe.wait=3"], "expected settings among"),
        (["recipes=3"], "expected keys among"),
        (["data.sorce=x"], "data: expected keys among"),
        (["data.source=coco:x"], "expected camvid:FOLDER"),
        (["plan.stepz=3"], "plan: "),
        (["plan.steps=0"], "steps: expected a whole number"),
        (["stages=[]"], "put a restorer into the pipeline"),
        (["data.degrade=[]"], "missing clean"),
        (["plan"], "expected KEY=VALUE"),
        (["model=nothing"], "no part is called 'nothing'"),
        (["recipe.attack=pgd(linf(0.1), stepz=1)"], "stepz"),
    ],
)
def test_wrong_configurations_are_one_clear_line(changes: list[str], message: str, data: Path, tmp_path: Path) -> None:
    config = next(one for one in CONFIGS if one.stem == "pearl_camvid")
    words = ["train", "--config", config, *_toy(config, data, tmp_path / "out"), "--out", tmp_path / "out"]
    result = run(*words, *(word for change in changes for word in ("--set", change)))
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_no_configuration_no_training(tmp_path: Path) -> None:
    assert "examples/configs" in run("train", "pearl").output
    (tmp_path / "a.toml").write_text("model = street", encoding="utf-8")
    assert "expected a TOML file" in run("train", "--config", tmp_path / "a.toml").output


def test_data_that_nothing_spoils_are_told_in_options() -> None:
    result = run("finetune", "recommended", "--data", "photographs", "--model", "toys_recipes:segmenter")
    assert result.exit_code == 2, result.output
    told = " ".join(result.output.split())
    assert "photographs gives images that nothing has spoiled, missing target for Recommended" in told
    assert "--degrade rain" in told
    assert "pairs:DEGRADED,CLEAN[,LABELS]" in told


def test_names_stand_for_the_pipeline_the_model_and_the_task(data: Path) -> None:
    tree = {"model": "toys_recipes:segmenter", "stages": ["unet(width=4)"], "data": {"source": f"camvid:{data}"}}
    tree["recipe"] = {"name": "nat", "attack": "transfer(pgd(linf(4/255), steps=2), model)", "part": "model"}
    ready = configs.configured(tree)
    assert ready.recipe.attack.source is ready.pipeline.model
    assert ready.recipe.part == "model"
    assert ready.recipe.pipeline is ready.pipeline
    assert isinstance(ready.task, rr.tasks.Segmentation)


def test_pairs_with_labels_images_and_photographs(data: Path) -> None:
    pairs, task = configs.dataset({"source": f"pairs:{data / 'train'},{data / 'val'},{data / 'trainannot'}"}, "train")
    assert task == "segmentation"
    assert {name: tuple(field.shape) for name, field in pairs[0].items()} == {
        "images": (3, 36, 48), "target": (36, 48), "clean": (3, 36, 48)
    }  # fmt: skip
    images, task = configs.dataset({"source": f"images:{data / 'val'}", "degrade": ["rain", "blur"], "limit": 2}, "train")
    assert (len(images), task) == (4, "restoration")
    assert torch.equal(images[1]["target"], rr.data.load_image(data / "val" / "0.png"))
    crops, _ = configs.dataset({"source": "photographs", "degrade": "rain", "crop": [8, 12], "flip": True}, "train")
    assert crops[0]["images"].shape == (3, 8, 12)
