"""The cells of the table: who is attacked, how, and by whom; each measured once and kept in a file of its own.

`rr.evaluate` hands back what a task's metrics make of outputs. Here the size of the change, the distance to the restorer's own
clean output and that of deep features are wanted too, and attacked images are handed on, so attacks are called by hand.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import robustrestore as rr
from robustrestore.files import digest, write_text
from robustrestore.weights import fingerprint
from udc_trainings import TASK, Scale

SIZES = (1, 2, 4, 8)
BEYOND = 64  # of 255: no defence is left there, or gradients are hidden
GOAL = 20.0  # dB from the restorer's own clean output, which C&W has to bring about
FURTHER: dict[str, tuple[str, ...]] = {"C&W": (), "perceptual": ("perceptual",), "black box": ("noise", "Square")}
VIEWS = ("adaptive", "alone", "handed on")
Batches = list[tuple[Tensor, Tensor]]
METRICS = ("PSNR", "SSIM", "PSNR to own clean output", "feature distance", "PSNR, attack in 8 bits", "L2", "Linf")


@dataclass(frozen=True)
class Contestant:
    """A restorer behind a stage, or behind none; `seed`: of its tuning."""

    name: str
    net: nn.Module
    stage: rr.Stage | None = None
    seed: int = 0

    @property
    def pipeline(self) -> rr.DefendedPipeline:
        """Both together."""
        return rr.DefendedPipeline(self.net, [] if self.stage is None else [self.stage])


@dataclass(frozen=True)
class Cell:
    """Who, by which attack, at which size of 255, seen how. "alone": the attacker knows the restorer, not the stage before it;
    "handed on": the images were made on the restorer before tuning; "adaptive": through all of it, exactly.
    """

    who: Contestant
    attack: str
    size: int
    view: str = "adaptive"

    @property
    def name(self) -> str:
        """Of its file."""
        parts = (self.who.name, f"seed {self.who.seed}", self.attack, f"{self.size}", self.view)
        return " - ".join(parts).replace("/", "_")


class StreetFeatures(nn.Module):
    """Three maps of the bundled street segmenter's encoder: what deep features there are without a download. No LPIPS."""

    def __init__(self) -> None:
        super().__init__()
        whole = rr.assets.street_segmenter()
        self.encoder: Any = whole.model.encoder  # type: ignore[union-attr]
        self.register_buffer("mean", torch.tensor(rr.assets.bundled.STREET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(rr.assets.bundled.STREET_STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """At a half, a quarter and an eighth of the size, which is to be divisible by 32."""
        found: list[Tensor] = self.encoder((images - self.mean) / self.std)[1:4]
        return found


def attack(name: str, size: int, scale: Scale) -> rr.Attack:
    """By its name in the table."""
    threat = rr.Linf(size / 255)
    if name in ("PGD", "perceptual"):
        return rr.attacks.PGD(threat, scale.attack_steps)
    if name == "noise":
        return rr.attacks.UniformNoise(threat)
    if name == "C&W":
        return rr.attacks.CWRestoration(rr.L2(100), GOAL, scale.searches, scale.descent)
    if name == "SimBA":
        return rr.attacks.SimBA(threat, scale.queries, step=4 / 255)
    return rr.attacks.Square(threat, scale.queries)


class Bench:
    """Images, features and the folder that results are kept in."""

    def __init__(self, batches: Batches, few: int, scale: Scale, folder: Path, base: nn.Module) -> None:
        self.batches, self.few, self.scale, self.folder, self.base = batches, few, scale, folder, base
        self.perceptual = rr.losses.Perceptual(StreetFeatures().to(batches[0][0].device))
        self._made: dict[tuple[str, int], list[Tensor]] = {}
        self._print = digest(*(tensor for batch in batches for tensor in batch))

    def measured(self, cell: Cell) -> dict[str, Any]:
        """Values by metric and image; read where they are known."""
        file, about = self.folder / f"{cell.name}.json", self._about(cell)
        if file.is_file():
            known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if known["about"] == about:
                return known
        began, found = time.process_time(), {name: [] for name in METRICS}
        for k, (images, target) in enumerate(self._images(cell)):
            attacked = self._attacked(cell, k, images, target)
            for name, values in self._scored(cell.who.pipeline, images, target, attacked).items():
                found[name] += values
        done = {"about": about, "values": found, "seconds": round(time.process_time() - began, 1)}
        write_text(file, json.dumps(done))
        return done

    def _about(self, cell: Cell) -> dict[str, str]:
        made = "none" if cell.attack == "none" else repr(attack(cell.attack, cell.size, self.scale))
        base = fingerprint(self.base) if cell.view == "handed on" else ""
        stage = repr(cell.who.stage)
        return {"attack": made, "weights": fingerprint(cell.who.net) + base, "stage": stage, "images": self._print}

    def _images(self, cell: Cell) -> Batches:
        costly = cell.attack in ("C&W", "SimBA", "Square")
        return self.batches[: self.few] if costly else self.batches

    def _attacked(self, cell: Cell, number: int, images: Tensor, target: Tensor) -> Tensor:
        if cell.attack == "none":
            return images
        if cell.view != "handed on":
            seen = cell.who.pipeline if cell.view == "adaptive" else rr.DefendedPipeline(cell.who.net)
            return self._craft(cell, seen, images, target)
        made = self._made.setdefault((cell.attack, cell.size), [])
        if number == len(made):
            made.append(self._craft(cell, rr.DefendedPipeline(self.base), images, target))
        return made[number]

    def _craft(self, cell: Cell, seen: rr.DefendedPipeline, images: Tensor, target: Tensor) -> Tensor:
        """Away from the truth; C&W from the own clean output, the perceptual attack from the truth's features."""
        goal = TASK.untargeted(target)
        if cell.attack == "C&W":
            with torch.no_grad():
                goal = TASK.untargeted(seen(images).clamp(0, 1))
        elif cell.attack == "perceptual":
            goal = self.perceptual(seen, images, goal)
        else:
            goal = goal.judged()
        return attack(cell.attack, cell.size, self.scale)(seen, images, goal)

    @torch.no_grad()
    def _scored(self, pipeline: nn.Module, images: Tensor, target: Tensor, attacked: Tensor) -> dict[str, list[float]]:
        psnr, ssim = TASK.metrics()
        with rr.evaluating(pipeline):
            own, found, rounded = (pipeline(x).clamp(0, 1) for x in (images, attacked, (attacked * 255).round() / 255))
        change = (attacked - images).flatten(1)
        deep = self.perceptual(pipeline, images, TASK.untargeted(target)).gain(found)
        values = (
            psnr.measure(found, target)[:, 0], ssim.measure(found, target)[:, 0], psnr.measure(found, own)[:, 0], deep,
            psnr.measure(rounded, target)[:, 0], change.norm(dim=1), change.abs().amax(1) * 255,
        )  # fmt: skip
        return {name: [round(v, 5) for v in value.tolist()] for name, value in zip(METRICS, values, strict=True)}


def main_cells(who: Contestant) -> Iterator[Cell]:
    """No attack, and PGD that knows everything."""
    yield Cell(who, "none", 0)
    yield from (Cell(who, "PGD", size) for size in SIZES)


def thorough_cells(who: Contestant, base: nn.Module) -> Iterator[Cell]:
    """Attackers who know less, and PGD beyond reason. `base`: on which images handed on are made; its own are no news."""
    yield from main_cells(who)
    handed = [] if who.stage is None and who.net is base else ["handed on"]
    for view in handed if who.stage is None else ["alone", *handed]:
        yield from (Cell(who, "PGD", size, view) for size in SIZES)
    yield Cell(who, "PGD", BEYOND)


def further_cells(who: Contestant, group: str) -> Iterator[Cell]:
    """The other attacks, a group of FURTHER."""
    if group == "C&W":
        yield Cell(who, "C&W", 0)
    for size in SIZES:
        yield from (Cell(who, name, size) for name in FURTHER[group])
    if group == "black box":
        yield Cell(who, "SimBA", SIZES[-1])


def fresh(who: Contestant, scale: Scale, batches: Batches) -> dict[str, list[float]]:
    """PSNR where a random stage draws anew at every call, under PGD at 4/255 that averages 1 or 10 draws; one draw scored."""
    if who.stage is None:
        raise ValueError(f"{who.name}: expected a stage that draws, got none")
    pipeline = replace(who, stage=who.stage.replace(seed=None)).pipeline
    found: dict[str, list[float]] = {}
    for samples in (1, 10):
        made = rr.attacks.PGD(rr.Linf(4 / 255), scale.attack_steps, samples=samples)
        for k, (images, target) in enumerate(batches):
            with rr.seeded(k), rr.evaluating(pipeline):
                attacked = made(pipeline, images, TASK.untargeted(target))
                with torch.no_grad():
                    psnr = TASK.metrics()[0].measure(pipeline(attacked), target)[:, 0]
            found.setdefault(str(samples), []).extend(psnr.tolist())
    return found
