"""Adversarial sets: attacked images on disk, made once, so that several defences are measured on the very same ones."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from . import registry
from .attack import Attack, Model, one_tensor
from .component import Component
from .files import digest, sha256, write_text
from .identity import of_attributes, of_callable, of_settings
from .images import check_images, per_image
from .journal import Journal
from .modes import evaluating, seeded
from .pipeline import DefendedPipeline
from .task import Task
from .threat import Threat
from .weights import fingerprint, read_tensors

MANIFEST, FORMAT = "manifest.json", 1


def craft(
    model: Model,
    batches: Iterable[tuple[Tensor, Tensor]],
    task: Task,
    attack: Attack,
    folder: str | Path,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    notes: Mapping[str, Any] | None = None,
) -> "AdversarialSet":
    """Attack `batches` of (images, target) against `model` and keep them under `folder`, a safetensors file a batch.

    `model`: a pipeline for an attacker who knows it, `pipeline.straight_through()` for the BPDA one, `pipeline.predict` or
    the bare model for one who does not. The highest gain is kept, not the first success: it carries over further.
    `dtype=None` keeps the images exactly, `torch.uint8` as 8-bit files would, in the threat; what that undoes is counted.
    A killed run goes on where it stopped, with the same files in the end. `notes`: what else the manifest should say.
    Raises ValueError where `folder` holds another set, changed or damaged files, or the threat has no room for 8 bits.
    """
    if dtype not in (None, torch.uint8):
        raise ValueError(f"dtype: expected None (exactly as they come) or torch.uint8, got {dtype}")
    if not isinstance(task, Task) or not isinstance(attack, Attack):
        raise TypeError(f"task, attack: expected a task and an attack, got {task!r} and {attack!r}")
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        AdversarialSet(folder).verify()  # nothing that was changed since is taken over
    about = _about(model, task, attack, seed, dtype) | {"notes": dict(notes or {})}
    journal: Journal | None = None
    found = []
    for number, (images, target) in enumerate(batches):
        check_images(images)
        attack.check(task.untargeted(target))
        journal = journal or Journal(folder, about)  # not before it is known that the attack fits
        inputs = digest(images, target)
        done = journal.read(number, inputs)
        if done is None:
            with evaluating(model), seeded(seed + 7919 * number):
                done = _attacked(model, images, target, task, attack, dtype)
            journal.write(number, inputs, done)
        found.append({name: tensor for name, tensor in done.items() if "/" in name})
    if not found:
        raise ValueError("batches: expected at least one (images, target) pair, got none")
    _write_manifest(folder, about, found)
    return AdversarialSet(folder)


def _write_manifest(folder: Path, about: dict[str, Any], found: Sequence[Mapping[str, Tensor]]) -> None:
    files = sorted(folder.glob("batch-*.safetensors"))
    if len(files) != len(found):
        raise ValueError(f"{folder}: expected {len(found)} batches there, got {len(files)}: choose another folder")
    shards = [
        {"file": file.name, "sha256": sha256(file), "images": len(done["reached/clean"])}
        for file, done in zip(files, found, strict=True)
    ]
    content = {**about, "counts": _counts(found), "shards": shards}
    write_text(folder / MANIFEST, json.dumps({**content, "sha256": _mark(content)}, indent=2, sort_keys=True) + "\n")


def _about(model: Model, task: Task, attack: Attack, seed: int, dtype: torch.dtype | None) -> dict[str, Any]:
    """All that the images depend on, the clean ones aside."""
    what, mark = identity_of(model)
    owner = getattr(model, "__self__", model)
    place = next((str(p.device) for p in owner.parameters()), "cpu") if isinstance(owner, nn.Module) else "unknown"
    return {
        "format": FORMAT,
        "attack": {**_described(attack), "weights": of_settings(attack)},
        "threat": _described(attack.threat),
        "task": _described(task),
        "goal": "untargeted",
        "model": {"what": what, "identity": mark},
        "seed": seed,
        "dtype": "as they came" if dtype is None else "uint8",
        "device": place,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("robustrestore", "torch", "numpy")},
    }


def _described(part: Component) -> dict[str, Any]:
    try:
        return {"repr": repr(part), "config": part.config()}
    except (TypeError, ValueError):  # it holds a function or a network, which no text makes again
        return {"repr": repr(part), "config": None}


def identity_of(model: Model) -> tuple[str, str]:
    """What is attacked, in words, and a mark that differs where it would act otherwise."""
    owner: Any = getattr(model, "__self__", model)
    past = getattr(model, "__func__", None) is DefendedPipeline.predict
    if isinstance(owner, DefendedPipeline) and (past or not len(owner.stages)):
        owner = model = owner.model
    text = "" if owner is model else of_callable(model)
    if not isinstance(owner, nn.Module):
        return of_callable(model), _mark(of_callable(model))
    text += f"{owner!r} {fingerprint(owner)} {of_attributes(owner)}"
    return repr(owner) if isinstance(owner, Component) else of_callable(type(owner)), _mark(text)


def _attacked(
    model: Model, images: Tensor, target: Tensor, task: Task, attack: Attack, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """One batch: attacked and clean images, the target, and per image what each of the three versions reached."""
    objective = task.untargeted(target)
    with torch.no_grad():
        task.check(one_tensor(model(images)), target)  # before the attack is paid for
    found = attack(model, images, objective)
    kept = found if dtype is None else _eight_bit(found, images, attack.threat)
    out = {"images": kept, "clean": images, "target": target}
    for name, version in (("clean", images), ("attacked", found), ("saved", _as_read(kept, images))):
        with torch.no_grad():
            outputs = one_tensor(model(version))
        out[f"gain/{name}"], out[f"reached/{name}"] = objective.gain(outputs).double(), objective.reached(outputs)
    return out


def _eight_bit(found: Tensor, clean: Tensor, threat: Threat) -> Tensor:
    """Levels 0..255: the nearest, and for images that this would take out of the threat, those towards the clean image."""
    exact, nearest = found * 255, (found * 255).round()
    low, high = exact.floor(), exact.ceil()
    inward = torch.where((low / 255 - clean).abs() <= (high / 255 - clean).abs(), low, high)
    inward = torch.where((exact - nearest).abs() < 1e-4, nearest, inward)  # on a level but for float32's rounding
    outside = ~_inside(_as_read(nearest.byte(), clean), clean, threat)
    levels = torch.where(per_image(outside, found), inward, nearest).byte()
    if not bool(_inside(_as_read(levels, clean), clean, threat).all()):
        raise ValueError(
            f"dtype: expected a threat with room for 8-bit images, got {threat!r}: keep them as they are, dtype=None"
        )
    return levels


def _as_read(kept: Tensor, clean: Tensor) -> Tensor:
    return (kept.float() / 255).to(clean.dtype) if kept.dtype == torch.uint8 else kept


def _inside(images: Tensor, clean: Tensor, threat: Threat) -> Tensor:
    """Which images [N] are within the threat and [0, 1], but for rounding."""
    size = threat.size(images.double() - clean.double())
    box = ((images >= 0) & (images <= 1)).flatten(1).all(1)
    return (size <= threat.eps * (1 + 1e-5) + 1e-6) & box


def _counts(found: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """Images, those that reached the goal clean, attacked and as saved, what saving undid, and mean gains."""
    every = {name: torch.cat([done[name].cpu() for done in found]) for name in found[0]}
    reached = {name: every[f"reached/{name}"] for name in ("clean", "attacked", "saved")}
    return {
        "images": len(reached["clean"]),
        "reached": {name: int(hit.sum()) for name, hit in reached.items()},
        "lost by saving": int((reached["attacked"] & ~reached["saved"]).sum()),
        "mean gain": {name: float(every[f"gain/{name}"].mean()) for name in reached},
    }


def _mark(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Attacked:
    """One batch: attacked `images` and `clean` ones [N, C, H, W] in [0, 1], and their `target`."""

    images: Tensor
    clean: Tensor
    target: Tensor


class AdversarialSet(Dataset[tuple[Tensor, Tensor]]):
    """What `craft` left in `folder`: a data set of batches (attacked images, target); `batch(k)` has the clean ones too.

    Every file is checked when it is read: its fingerprint, its shapes, that the images are inside the threat. Raises
    FileNotFoundError for a set or a batch that is not there, ValueError for damaged, changed or foreign files, by path.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder / MANIFEST)
        self.attack, self.against = str(self.manifest["attack"]["repr"]), str(self.manifest["model"]["what"])
        try:
            self.threat, self.task = (_part(self.manifest[kind]["config"]) for kind in ("threat", "task"))
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{self.folder / MANIFEST}: expected a threat and a task that can be made: {error}") from error
        listed = [shard["file"] for shard in self.manifest["shards"]]
        if foreign := sorted({f.name for f in self.folder.glob("batch-*.safetensors")} - set(listed)):
            raise ValueError(f"{self.folder / foreign[0]}: expected only batches that {MANIFEST} lists, got this one: move it")

    def __len__(self) -> int:
        return len(self.manifest["shards"])

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        batch = self.batch(number)
        return batch.images, batch.target

    def batch(self, number: int) -> Attacked:
        """Batch `number`, checked; IndexError beyond the last."""
        shard = self.manifest["shards"][number]
        file = self.folder / shard["file"]
        if not file.is_file():
            raise FileNotFoundError(f"{file}: expected the batch that {MANIFEST} lists, it is missing: make the set again")
        if (found := sha256(file)) != shard["sha256"]:
            raise ValueError(
                f"{file}: expected SHA-256 {shard['sha256']}, got {found}: the file was changed or damaged; make the set again"
            )
        tensors = read_tensors(file)
        clean, target = tensors["clean"], tensors["target"]
        images = _as_read(tensors["images"], clean)
        if images.shape != clean.shape or not len(images) == len(target) == shard["images"]:
            raise ValueError(f"{file}: expected {shard['images']} images with clean ones and targets, got {list(images.shape)}")
        if outside := int((~_inside(images, clean, self.threat)).sum()):
            raise ValueError(f"{file}: expected images within {self.threat!r} of the clean ones, got {outside} outside")
        return Attacked(images, clean, target)

    def verify(self) -> None:
        """Read every file once."""
        for number in range(len(self)):
            self.batch(number)

    def __repr__(self) -> str:
        return f"AdversarialSet({str(self.folder)!r}: {self.manifest['counts']['images']} images, {self.attack})"


def _read_manifest(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected a finished adversarial set; a killed run goes on when started again")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: expected JSON written by craft: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{file}: expected an adversarial set of format {FORMAT}, got {got}")
    if content.pop("sha256", None) != _mark(content):
        raise ValueError(f"{file}: expected it as craft wrote it, it was changed: make the set again")
    return content


def _part(tree: Any) -> Any:
    """A part from its tree of kind, name and settings: registered classes only."""
    if isinstance(tree, list):
        return [_part(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    return registry.find(tree["kind"], tree["name"])(**{name: _part(item) for name, item in tree["settings"].items()})
