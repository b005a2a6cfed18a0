"""Adversarial sets: what is kept, that a killed run ends in the same files, that nothing damaged or foreign passes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from toys import Gain, Linear2, PixelSegmenter, photos

import robustrestore as rr
from robustrestore import adversarial_set
from robustrestore.adversarial_set import AdversarialSet, craft, identity_of

EPS = 4 / 255
PGD = rr.attacks.PGD(rr.Linf(EPS), steps=3, seed=None)
TASK = rr.tasks.Classification()


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    images, model = photos(2 * count, 6, 6), Linear2()
    return [(x, model(x).argmax(1)) for x in images.split(2)]


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_what_comes_back_is_what_the_attack_made(tmp_path: Path) -> None:
    model, attack = Linear2(), PGD.replace(seed=0)
    made = craft(model, batches(), TASK, attack, tmp_path / "set", notes={"data": "toys"})
    assert len(made) == 3
    for number, ((clean, labels), (images, target)) in enumerate(zip(batches(), made, strict=True)):
        assert torch.equal(images, attack(model, clean, TASK.untargeted(labels)))
        assert torch.equal(target, labels)
        assert torch.equal(made.batch(number).clean, clean)
    loaded = list(DataLoader(AdversarialSet(tmp_path / "set"), batch_size=None))
    assert torch.equal(loaded[1][0], made[1][0])
    about = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert about["attack"] == {"repr": repr(attack), "config": attack.config(), "weights": ""}
    assert about["threat"]["repr"] == "Linf(eps=4/255)"
    assert about["task"]["config"] == TASK.config()
    assert about["model"] == {"what": "toys.Linear2", "identity": identity_of(model)[1]}
    assert about["notes"] == {"data": "toys"}
    assert about["versions"]["torch"] == metadata.version("torch")
    assert [shard["images"] for shard in about["shards"]] == [2, 2, 2]
    wrong = sum(int((model(images).argmax(1) != target).sum()) for images, target in made)
    assert about["counts"]["reached"] == {"clean": 0, "attacked": wrong, "saved": wrong}
    assert about["counts"]["lost by saving"] == 0
    gains = about["counts"]["mean gain"]
    assert gains["clean"] < gains["attacked"] == gains["saved"]
    assert content(tmp_path / "set").keys() == {
        "about.json",
        "manifest.json",
        *(f"batch-00000{k}.safetensors" for k in range(3)),
    }
    assert repr(made.task) == repr(TASK)
    assert "6 images" in repr(made)


class _Killed(BaseException):
    pass


def until(stop: int) -> Iterator[tuple[Tensor, Tensor]]:
    for number, batch in enumerate(batches()):
        if number == stop:
            raise _Killed
        yield batch


def test_a_killed_run_ends_in_the_same_files(tmp_path: Path) -> None:
    craft(Linear2(), batches(), TASK, PGD, tmp_path / "whole", seed=7)
    for stop in range(3):
        with pytest.raises(_Killed):
            craft(Linear2(), until(stop), TASK, PGD, tmp_path / str(stop), seed=7)
        with pytest.raises(
            FileNotFoundError, match=r"manifest\.json: expected a finished adversarial set; a killed run goes on"
        ):
            AdversarialSet(tmp_path / str(stop))
        torch.manual_seed(stop)
        craft(Linear2(), batches(), TASK, PGD, tmp_path / str(stop), seed=7)
        assert content(tmp_path / str(stop)) == content(tmp_path / "whole")
    craft(Linear2(), batches(), TASK, PGD, tmp_path / "whole", seed=7)  # finished: nothing changes
    assert content(tmp_path / "whole") == content(tmp_path / "0")


def test_a_run_killed_by_the_system_while_it_writes(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; sys.path.insert(0, 'tests'); import safetensors.torch as s; import test_adversarial_set as t;"
        "real = s.save_file; count = [0]\n"
        "def dying(tensors, file, metadata=None):\n"
        "    real(tensors, file, metadata=metadata); count[0] += 1\n"
        "    if count[0] == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "s.save_file = dying\n"
        "t.craft(t.Linear2(), t.batches(), t.TASK, t.PGD, sys.argv[1], seed=7)"
    )
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root / "tests")}
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path / "set")], cwd=root, env=environment, check=False)
    assert died.returncode == -signal.SIGKILL
    left = [name for name in content(tmp_path / "set") if not name.startswith(".")]
    assert left == ["about.json", "batch-000000.safetensors"]
    craft(Linear2(), batches(), TASK, PGD, tmp_path / "set", seed=7)
    craft(Linear2(), batches(), TASK, PGD, tmp_path / "whole", seed=7)
    visible = {name: data for name, data in content(tmp_path / "set").items() if not name.startswith(".")}
    assert visible == content(tmp_path / "whole")


def test_other_settings_models_and_data_are_refused(tmp_path: Path) -> None:
    craft(Linear2(), batches(), TASK, PGD, tmp_path)
    other = Linear2()
    other.weight.data[0, 0, 0] += 1
    for arguments, differ in (
        ((Linear2(), batches(), TASK, PGD.replace(steps=4), tmp_path), "attack"),
        ((other, batches(), TASK, PGD, tmp_path), "model"),
        ((Linear2(), batches(), TASK, PGD, tmp_path, 1), "seed"),
        ((Linear2(), batches(), TASK, PGD, tmp_path, 0, torch.uint8), "dtype"),
    ):
        with pytest.raises(ValueError, match=rf"differs in \['{differ}'\]: choose another folder"):
            craft(*arguments)
    with pytest.raises(ValueError, match=r"batch-000000\.safetensors: expected batch 0 to hold the same images as before"):
        craft(Linear2(), batches()[::-1], TASK, PGD, tmp_path)
    with pytest.raises(ValueError, match="expected 2 batches there, got 3: choose another folder"):
        craft(Linear2(), batches()[:2], TASK, PGD, tmp_path)
    AdversarialSet(tmp_path).verify()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    craft(Linear2(), batches(), TASK, PGD, folder)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "set")


def test_a_changed_shard_is_refused_by_name(copied: Path) -> None:
    file = copied / "batch-000001.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    made = AdversarialSet(copied)
    assert len(made[0][0]) == 2  # the others are whole
    for look in (made.verify, lambda: made[1], lambda: craft(Linear2(), batches(), TASK, PGD, copied)):
        with pytest.raises(ValueError, match=r"batch-000001\.safetensors: expected SHA-256 .*the file was changed or damaged"):
            look()
    file.write_bytes(bytes(data)[:-9])
    with pytest.raises(ValueError, match=r"batch-000001\.safetensors: expected SHA-256"):
        made.verify()
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"batch-000001\.safetensors: expected the batch that manifest\.json lists"):
        made.verify()


def test_a_foreign_shard_is_refused_by_name(copied: Path) -> None:
    shutil.copy(copied / "batch-000001.safetensors", copied / "batch-000003.safetensors")
    with pytest.raises(ValueError, match=r"batch-000003\.safetensors: expected only batches that manifest\.json lists"):
        AdversarialSet(copied)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON written by craft"),
        ("[]", "expected an adversarial set of format 1, got list"),
        ('{"format": 2}', "expected an adversarial set of format 1, got 2"),
        ('{"format": 1}', "expected it as craft wrote it, it was changed"),
    ],
)
def test_a_damaged_manifest_is_named(copied: Path, text: str, message: str) -> None:
    (copied / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=rf"manifest\.json: {message}"):
        AdversarialSet(copied)


def test_an_edited_manifest_is_named(copied: Path) -> None:
    file = copied / "manifest.json"
    file.write_text(file.read_text().replace("steps=3", "steps=300"))
    with pytest.raises(ValueError, match=r"manifest\.json: expected it as craft wrote it, it was changed"):
        AdversarialSet(copied)


def forge(folder: Path, **changes: Tensor) -> None:
    """Change a shard, and the manifest so that it agrees."""
    file = folder / "batch-000000.safetensors"
    save_file(load(file.read_bytes()) | changes, file)
    about = json.loads((folder / "manifest.json").read_text())
    del about["sha256"]
    about["shards"][0]["sha256"] = adversarial_set.sha256(file)
    (folder / "manifest.json").write_text(json.dumps({**about, "sha256": adversarial_set._mark(about)}))


def test_images_outside_the_threat_are_refused(copied: Path) -> None:
    clean = batches()[0][0]
    forge(copied, images=(clean + 5 / 255).clamp(0, 1))
    with pytest.raises(ValueError, match=r"batch-000000\.safetensors: expected images within Linf\(eps=4/255\).*got 2 outside"):
        AdversarialSet(copied).verify()
    forge(copied, images=clean + torch.tensor([0.0, torch.nan]).view(2, 1, 1, 1))
    with pytest.raises(ValueError, match="got 1 outside"):
        AdversarialSet(copied).verify()
    forge(copied, images=clean[:, :, :4].contiguous())
    with pytest.raises(ValueError, match=r"expected 2 images with clean ones and targets, got \[2, 3, 4, 6\]"):
        AdversarialSet(copied).verify()


class _Threshold(nn.Module):
    """Class 1 above a mean level."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, images: Tensor) -> Tensor:
        score = (images.flatten(1).mean(1) - self.level) * 1000
        return torch.stack([-score, score], dim=1)


def test_saving_with_8_bits_says_what_it_undoes(tmp_path: Path) -> None:
    levels = torch.tensor([100, 100, 101, 90]).view(4, 1, 1, 1) / 255
    images, labels = levels.expand(4, 3, 4, 4).contiguous(), torch.zeros(4, dtype=torch.long)
    attack = rr.attacks.PGD(
        rr.Linf(0.4 / 255), steps=3
    )  # reaches 100.4, 100.4, 101.4 and 90.4, of which 100, 100, 101, 90 stay
    model = _Threshold(100.2 / 255)
    exact = craft(model, [(images, labels)], TASK, attack, tmp_path / "exact")
    assert exact.manifest["counts"]["reached"] == {"clean": 1, "attacked": 3, "saved": 3}
    assert exact.manifest["counts"]["lost by saving"] == 0
    rounded = craft(model, [(images, labels)], TASK, attack, tmp_path / "rounded", dtype=torch.uint8)
    assert rounded.manifest["counts"]["reached"] == {"clean": 1, "attacked": 3, "saved": 1}
    assert rounded.manifest["counts"]["lost by saving"] == 2
    assert load_file(tmp_path / "rounded" / "batch-000000.safetensors")["images"].dtype == torch.uint8
    assert torch.equal(rounded[0][0], images)


def test_8_bit_images_stay_inside_the_threat(tmp_path: Path) -> None:
    made = craft(Linear2(), batches(), TASK, PGD, tmp_path, dtype=torch.uint8)  # the clean ones are on no 8-bit level
    for number in range(len(made)):
        batch = made.batch(number)
        assert torch.equal((batch.images * 255).round() / 255, batch.images)
        assert float((batch.images - batch.clean).abs().max()) <= EPS + 1e-6
    assert made.manifest["counts"]["mean gain"]["saved"] > made.manifest["counts"]["mean gain"]["clean"]


@pytest.mark.parametrize("offset", [0.0, 5e-5, -5e-5, 5e-4, -5e-4, 2e-3, -2e-3, 0.3, 0.5, 0.9])
def test_8_bit_images_stay_inside_however_the_clean_ones_lie(tmp_path: Path, offset: float) -> None:
    levels = torch.arange(5, 250, dtype=torch.float32)[: 3 * 81].view(1, 3, 9, 9).repeat(2, 1, 1, 1)
    images = (levels + offset) / 255
    model = nn.Sequential(nn.Flatten(), nn.Linear(243, 2))
    attack = rr.attacks.PGD(rr.Linf(EPS), steps=2, step=EPS)
    made = craft(model, [(images, torch.tensor([0, 1]))], TASK, attack, tmp_path, dtype=torch.uint8)
    moved = (made[0][0] - images).abs() * 255
    assert moved.max() <= 4 + 3e-4  # the tolerance of 1e-6
    assert moved.median() >= 3  # and little of the change is lost
    if offset == 0:
        torch.testing.assert_close(moved, torch.full_like(moved, 4.0), atol=1e-4, rtol=0)


def test_a_threat_without_room_for_8_bits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype: expected a threat with room for 8-bit images, got Linf\(eps=0.0001\): keep"):
        craft(Linear2(), batches(), TASK, rr.attacks.FGSM(rr.Linf(1e-4)), tmp_path / "a", dtype=torch.uint8)
    with pytest.raises(ValueError, match="dtype: expected None .* or torch.uint8, got torch.float16"):
        craft(Linear2(), batches(), TASK, PGD, tmp_path / "b", dtype=torch.float16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_are_kept_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    model, images = Gain(1.1).to(dtype), photos(2, 12, 12).to(dtype)
    made = craft(model, [(images, images)], rr.tasks.Restoration(), rr.attacks.PGD(rr.Linf(EPS), steps=2), tmp_path)
    assert made[0][0].dtype == dtype
    assert torch.equal(made[0][0], rr.attacks.PGD(rr.Linf(EPS), steps=2)(model, images, made.task.untargeted(images)))


def test_dense_tasks_and_attacks_that_no_text_makes_again(tmp_path: Path) -> None:
    class Bright(rr.Attack):
        def __init__(self, threat: rr.Threat) -> None:
            self.threat = threat

        def run(self, model: object, images: Tensor, objective: rr.Objective) -> Tensor:
            return images + 1

    images, task = photos(), rr.tasks.Segmentation(ignore=9)
    labels = PixelSegmenter()(images).argmax(1)
    labels[0, 0] = 9
    made = craft(PixelSegmenter(), [(images, labels)], task, Bright(rr.Linf(EPS)), tmp_path)
    assert made.manifest["attack"]["config"] is None
    assert made.attack == "Bright(threat=Linf(eps=4/255))"
    assert repr(made.task) == "Segmentation(ignore=9, floor=0.5)"
    assert torch.equal(made[0][1], labels)


def test_what_is_attacked_is_told_apart() -> None:
    model, blur, jpeg = PixelSegmenter(), rr.purifiers.Blur(), rr.purifiers.Jpeg()
    pipeline = rr.DefendedPipeline(model, [blur])
    same = [
        model,
        rr.DefendedPipeline(model, []),
        rr.DefendedPipeline(model, [jpeg]).predict,
        pipeline.predict,
        PixelSegmenter(),
    ]
    assert len({identity_of(one)[1] for one in same}) == 1
    others = [model, pipeline, pipeline.straight_through(), rr.DefendedPipeline(model, [jpeg]), pipeline.clean, lambda x: x]
    others += [rr.DefendedPipeline(model, [rr.purifiers.Blur(sigma=2.0)]), Gain(1.0), Gain(1.5)]
    assert len({identity_of(one)[1] for one in others}) == len(others)
    assert identity_of(rr.DefendedPipeline(model, [blur]))[1] == identity_of(pipeline)[1]
    assert identity_of(pipeline)[0] == repr(pipeline)


def test_slips_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        craft(Linear2(), [], TASK, PGD, tmp_path / "a")
    with pytest.raises(TypeError, match="expected a task and an attack"):
        craft(Linear2(), batches(), PGD, TASK, tmp_path / "b")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="divide by 255"):
        craft(Linear2(), [(batches()[0][0] * 255, batches()[0][1])], TASK, PGD, tmp_path / "c")
    with pytest.raises(ValueError, match="labels 0..1"):
        craft(Linear2(), [(batches()[0][0], torch.tensor([0, 5]))], TASK, PGD, tmp_path / "d")
