"""Cameras under displays: what purifying and tuning is worth, beside filters and adversarial training, attacked anew each.

python benchmarks/udc.py --data PHOTOGRAPHS --out FOLDER [--scale full] [--device cuda]

Writes results/udc.json after every contestant. Can be killed and started again: trainings and cells are kept in --out. The
small scale takes about an hour of one CPU core, `full` is for a GPU. Displays are simulated, not measured.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

import harness
import robustrestore as rr
import udc_data
import udc_report
from robustrestore.files import write_text
from udc_rows import FURTHER, Batches, Bench, Cell, Contestant, fresh, further_cells, main_cells, thorough_cells
from udc_trainings import SCALES, TASK, Scale, Strengths, restorer, tuned

PLAIN = {
    "no defence": "none", "blur": "blur", "median": "median", "JPEG": "JPEG", "purify only": "purify",
    "purify only, 22/255": "purify more",
}  # fmt: skip
TUNED = {
    "tuned on clean": ("clean", "none"),
    "adversarial training": ("attacked", "none"),
    "purify + tune": ("purify", "purify"),
    "blur + tune": ("blur", "blur"),
    "noise + tune": ("noise", "noise"),
    "purify + tune, attack through both": ("purify, attack through both", "purify"),
    "purify + tune, 22/255": ("purify more", "purify more"),
}  # name in the table: how it is tuned, what stands before it
FEWER = ("purify + tune, attack through both", "purify only, 22/255", "purify + tune, 22/255")  # one seed, PGD alone
MOST = ("no defence", "blur", "purify only", "adversarial training", "purify + tune", "blur + tune")  # meet other attacks first
COST = 1.5  # dB without attack that a stage may cost
CANDIDATES: dict[str, tuple[str, tuple[float, ...]]] = {
    "purify": ("sigma", (0.01, 0.02, 0.03, 0.05, 0.08)),
    "blur": ("blur", (0.4, 0.6, 0.8, 1.0, 1.4)),
    "JPEG": ("quality", (50, 75, 90)),
}


def choice(base: rr.Restorer, batches: Batches, file: Path) -> tuple[Strengths, dict[str, Any]]:
    """The strength of each stage before the untuned restorer, on images set aside, and the curves.

    Ours: of those that cost at most COST dB without attack, the highest PSNR under adaptive PGD of 10 steps at 4/255.
    """

    def curve(name: str, field: str, values: tuple[float, ...]) -> list[dict[str, float]]:
        return [tried(Strengths(**{field: value}).stage(name), base, batches) | {field: value} for value in values]

    def all_curves() -> dict[str, Any]:
        return {"none": [tried(None, base, batches)], **{name: curve(name, *tries) for name, tries in CANDIDATES.items()}}

    curves, best = kept(file, all_curves), {}
    for name, (field, _) in CANDIDATES.items():
        dearest = curves["none"][0]["no attack"] - COST
        point = max(curves[name], key=lambda p: (min(p["no attack"], dearest), p["adaptive"]))
        best[field] = point[field]
        point["chosen"] = 1.0
    return Strengths(**best), curves


def tried(stage: rr.Stage | None, base: rr.Restorer, batches: Batches) -> dict[str, float]:
    """PSNR of what the stage makes of its input, of the restored image, and of that under attack."""
    pipeline = Contestant("", base, stage).pipeline
    attack, psnr = rr.attacks.PGD(rr.Linf(4 / 255), 10), TASK.metrics()[0]
    sums = torch.zeros(3, dtype=torch.float64)
    for images, target in batches:
        attacked = attack(pipeline, images, TASK.untargeted(target).judged())
        with torch.no_grad(), rr.evaluating(pipeline):
            pairs = (pipeline.clean(images), images), (pipeline(images), target), (pipeline(attacked), target)
        sums += torch.stack([psnr.measure(a, b)[:, 0].sum() for a, b in pairs]).cpu()
    count = sum(len(images) for images, _ in batches)
    names = ("input kept", "no attack", "adaptive")
    return {name: round(float(value) / count, 4) for name, value in zip(names, sums, strict=True)}


def seconds(who: Contestant, images: torch.Tensor) -> float:
    """A megapixel, without gradient; the lowest of three."""
    device, pixels = images.device.type, images.shape[0] * images.shape[2] * images.shape[3]
    with torch.no_grad():
        return min(harness.timed(lambda: who.pipeline(images), device) for _ in range(3)) / pixels * 1e6


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """What a file holds, made where there is none."""
    if not file.is_file():
        write_text(file, json.dumps(make()))
    return json.loads(file.read_text(encoding="utf-8"))


class Contestants:
    """By name and seed, tuned when first asked for."""

    def __init__(self, base: rr.Restorer, train: udc_data.Pairs, scale: Scale, strengths: Strengths, out: Path) -> None:
        self.base, self.train, self.scale, self.strengths, self.out = base, train, scale, strengths, out
        self._known: dict[tuple[str, int], Contestant] = {}

    def named(self, name: str, seed: int) -> Contestant:
        """On the device of the restorer that all start from."""
        if (name, seed) not in self._known:
            how, stage = TUNED[name] if name in TUNED else ("", PLAIN[name])
            net, place = self.base, self.out / f"tuned {how} {seed}"
            if how:
                net = tuned(how, self.base, self.train, self.scale, self.strengths, seed, place)
            who = Contestant(name, net, self.strengths.stage(stage), seed)
            who.pipeline.to(next(self.base.parameters()).device)
            self._known[name, seed] = who
        return self._known[name, seed]

    def jobs(self) -> Iterator[tuple[Contestant, list[Cell]]]:
        """What is measured, what matters most first: PGD, other attacks, other seeds, rows with PGD alone, the rest."""
        names = [name for name in (*PLAIN, *TUNED) if name not in FEWER]
        for name in names:
            yield (who := self.named(name, 0)), list(thorough_cells(who, self.base))
        for group, name in product(FURTHER, (name for name in names if name in MOST)):
            yield (who := self.named(name, 0)), list(further_cells(who, group))
        again = sorted((name for name in names if name in TUNED), key=lambda name: name not in MOST)
        seeds = [(name, seed) for seed in range(1, self.scale.seeds) for name in again]
        fewer = [(name, 0) for name in FEWER]
        for name, seed in (*fewer[:1], *seeds, *fewer[1:]):
            yield (who := self.named(name, seed)), list(main_cells(who))
        for group, name in product(FURTHER, (name for name in names if name not in MOST)):
            yield (who := self.named(name, 0)), list(further_cells(who, group))


def run(options: argparse.Namespace, scale: Scale, displays: list[Any], name: str = "udc") -> dict[str, Any]:
    """All of it; `name` of the results."""
    out, began = options.out, time.process_time()
    pairs = udc_data.pairs(options.data, out / "pairs", displays, scale.window, scale.view, (scale.judged, scale.images))
    base = restorer(pairs["train"], scale, out / "restorer").to(options.device)
    choose, test = (pairs[key].batches(n, options.device) for key, n in (("choose", scale.judged), ("test", scale.images)))
    strengths, curves = choice(base, choose, out / "choice.json")
    bench = Bench(test, max(1, scale.few // 8), scale, out / "cells", base)
    found = udc_report.Findings(udc_report.about(scale, strengths, displays, pairs, harness.machine(options.device)))
    for who, cells in Contestants(base, pairs["train"], scale, strengths, out).jobs():
        for cell in cells:
            found.add(cell, bench.measured(cell))
        if who.seed == 0 and who.name not in found.seconds:
            found.seconds[who.name] = round(seconds(who, test[0][0]), 3)
        if who.name == "purify + tune" and cells[0].attack == "noise":
            found.fresh[who.name] = kept(out / "fresh.json", partial(fresh, who, scale, test[:1]))
        print(f"{who.name}, seed {who.seed}, {cells[0].attack} and more: {time.process_time() - began:.0f} s", flush=True)
        harness.write(name, {**found.content(), "choice": curves})
    return found.content()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--out", type=Path, required=True, help="for pairs, checkpoints and cells")
    parser.add_argument("--scale", choices=tuple(SCALES), default="small")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    run(options, SCALES[options.scale], udc_data.displays())


if __name__ == "__main__":
    main()
