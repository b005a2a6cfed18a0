"""The rows of the PEARL table: how each is trained, at equal budget, and how it is measured."""

import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset

import robustrestore as rr
import streets
from robustrestore import recipes
from robustrestore.files import write_text
from robustrestore.metrics import Statistics
from robustrestore.verdict import compare

BARE, DERAIN, AT, NAT, NAA, AMA = "no defence", "derain only", "AT", "NAT", "PEARL + NAA", "PEARL + AMA"
LEARNT = (DERAIN, AT, NAT, NAA, AMA)
OWN = (AT, NAT)  # those that train the segmenter
PAIRS = ((AMA, NAA), (NAA, NAT), (AMA, NAT), (NAA, AT), (AMA, AT), (NAA, DERAIN), (AMA, DERAIN), (DERAIN, BARE))
Row = dict[str, dict[str, Statistics]]  # column, metric
Seeds = dict[str, list[Row]]  # by row, a seed each
Defence = tuple[nn.Module, rr.Stage | None]  # the segmenter, and what stands before it


@dataclass(frozen=True)
class Setting:
    """What every adversarial row has in common; sizes of attacks in units of [0, 1] images, steps as shares of them."""

    steps: int = 120
    batch: int = 8
    lr: float = 1e-3
    average: float = 0.98
    precision: str = "bf16"
    eps: float = 4 / 255
    attack_steps: int = 2
    step: float = 0.6
    share: float = 0.5
    weight: float = 0.01
    mirror_steps: int = 3
    mirror_step: float = 0.5
    derain_steps: int = 120  # before: of the network that all rows with a derain network set out from

    def attack(self) -> rr.Attack:
        """The adversary of every adversarial row."""
        return rr.attacks.NAA(rr.Linf(self.eps), self.attack_steps, self.step * self.eps, seed=None)

    def mirror(self) -> recipes.MirrorGoal:
        """What PEARL + AMA trains towards: reading A."""
        attack = rr.attacks.AMA(rr.Linf(self.eps), self.mirror_steps, self.mirror_step * self.eps)
        return recipes.MirrorGoal(attack, cached=True)

    def plan(self, seed: int, steps: int) -> rr.Plan:
        """Of every training."""
        every = max(1, steps // 5)
        return rr.Plan(
            steps, self.batch, rr.AdamW(self.lr), average=self.average, precision=self.precision, every=every, seed=seed
        )


SETTING = Setting()


@dataclass(frozen=True)
class Case:
    """A segmenter and a derain network: `segmenter` and `restorer` make them as they are before any training."""

    name: str
    segmenter: Callable[[], nn.Module]
    restorer: Callable[[], rr.Restorer]
    data: streets.Weather
    setting: Setting = SETTING

    def about(self) -> dict[str, Any]:
        """How it was trained."""
        return {**asdict(self.setting), "images": len(self.data), "rain": repr(self.data.rain), "dry share": self.data.dry}


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """(image in the rain, the same image dry)."""

    def __init__(self, weather: streets.Weather) -> None:
        self.weather = weather

    def __len__(self) -> int:
        return len(self.weather)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        fields = self.weather[place]
        return fields["images"], fields["clean"]


def trained(case: Case, row: str, seed: int, folder: Path) -> Defence:
    """The row's segmenter and derain network after training; resumable, and read back where it is done."""
    with rr.seeded(seed):
        segmenter, restorer = case.segmenter(), case.restorer()
    if row != AT:
        _fit(case, recipes.Plain(restorer, rr.tasks.Restoration()), seed, folder / DERAIN)
    restorer = deepcopy(restorer)
    setting, pipeline = case.setting, rr.DefendedPipeline(segmenter, [restorer])
    adversary = (streets.TASK, setting.attack())
    if row == AT:
        _fit(case, recipes.AdversarialTraining(segmenter, *adversary, setting.share), seed, folder / row)
        return segmenter, None
    if row == NAT:
        _fit(case, recipes.NAT(pipeline, *adversary, setting.share), seed, folder / row)
    elif row in (NAA, AMA):
        goal = recipes.CleanGoal() if row == NAA else setting.mirror()
        _fit(case, recipes.PEARL(pipeline, *adversary, goal, setting.weight, setting.share), seed, folder / row)
    return segmenter, restorer


def _fit(case: Case, recipe: rr.Recipe, seed: int, folder: Path) -> None:
    """Train, and write down once how many seconds of the processor that took."""
    plain = isinstance(recipe, recipes.Plain)
    data = Pairs(case.data) if plain else case.data
    steps, begin = case.setting.derain_steps if plain else case.setting.steps, time.process_time()
    history = rr.fit(recipe, data, case.setting.plan(seed, steps), folder=folder, quiet=True)
    recipe.requires_grad_(False).eval()
    if not (folder / "seconds.json").is_file():
        told = {"seconds": round(time.process_time() - begin, 1), "steps": steps, "last": history.rows[-1]}
        write_text(folder / "seconds.json", json.dumps(told))


def costs(folder: Path) -> dict[str, float]:
    """Seconds of the processor by row, of one case and seed."""
    found = {place.parent.name: json.loads(place.read_text(encoding="utf-8")) for place in folder.glob("*/seconds.json")}
    return {row: found[row]["seconds"] for row in LEARNT if row in found}


def tuned(weights: Path, data: streets.Weather, setting: Setting, folder: Path) -> Callable[[], nn.Module]:
    """What makes the published ESPNet, tuned to dry frames of this size: as published it is at home at four times as many."""
    from foreign_model import wrapped

    def make() -> nn.Module:
        model = wrapped(weights)
        pairs = [(fields, target) for fields, target in data.frames]
        plan = setting.plan(0, 2 * setting.steps)
        rr.fit(recipes.Plain(model, streets.TASK), pairs, plan, folder=folder, quiet=True)
        return model.requires_grad_(False).eval()

    return make


def alone(defence: Defence, street: streets.Street, asked: Sequence[streets.Column], folder: Path) -> Row:
    """The columns of a defence that shares no attack with others."""
    model, stage = defence
    whole = model if stage is None else rr.DefendedPipeline(model, [stage])
    through = [column for column in asked if column.view == "adaptive" or stage is None]
    cells = streets.measured(whole, {}, street, through, folder)["none"]
    rest = [column for column in asked if column not in through]
    if rest and stage is not None:
        cells |= streets.measured(model, {"defence": stage}, street, rest, folder / "oblivious")["defence"]
    return cells


def summary(found: Seeds) -> dict[str, Any]:
    """Row, column, metric: the value pooled over seeds, its interval over images, and the value of each seed."""
    told: dict[str, Any] = {}
    for row, seeds in found.items():
        for column, metric in product(dict.fromkeys(column for seed in seeds for column in seed), streets.TASK.metrics()):
            tables = [seed[column][metric.name] for seed in seeds if column in seed]
            pooled = np.sum(tables, axis=0)
            told.setdefault(row, {}).setdefault(column, {})[metric.name] = {
                "value": round(metric.value(pooled), 5),
                "interval": [round(v, 5) for v in metric.interval(pooled)],
                "seeds": [round(metric.value(table), 5) for table in tables],
            }
    return told


def verdicts(found: Seeds, column: str) -> list[dict[str, Any]]:
    """Pairs of rows in a column: in words over images, and whether each seed of one lies beyond each seed of the other."""
    metric, said = streets.TASK.metrics()[0], []
    for first, second in PAIRS:
        one, other = ([seed[column][metric.name] for seed in found.get(row, []) if column in seed] for row in (first, second))
        seeds = min(len(one), len(other))
        if not seeds:
            continue
        a, b = ([metric.value(table) for table in tables[:seeds]] for tables in (one, other))
        pooled = (np.sum(tables[:seeds], axis=0) for tables in (one, other))
        text = compare(metric, *pooled, f"{column}: {first} against {second}")
        said.append({"text": text, "seeds": seeds, "apart": seeds > 1 and (min(a) > max(b) or max(a) < min(b))})
    return said


def told(case: Case, found: Seeds, looks: dict[str, list[Any]], folders: Sequence[Path]) -> dict[str, Any]:
    """A table as data."""
    spent = [costs(folder) for folder in folders]
    strongest = next(column for column in found[BARE][0] if column.startswith("CosPGD"))
    return {
        "training": case.about(),
        "rows": summary(found),
        "quality": looks,
        "seconds": {row: [cost[row] for cost in spent if row in cost] for row in LEARNT},
        "verdicts": [line for column in (strongest, "rain") for line in verdicts(found, column)],
    }
