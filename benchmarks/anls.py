"""How good is the level that ANLS (Yu et al., 2024) chooses, and what does the choice cost? Four networks, two data sets.

    python benchmarks/anls.py --camvid PATH --ucmerced PATH --espnet espnet_p2q8_camvid.pth --networks PATH [--eps 4]

Rules that see no label choose a level for PGD-10 images made against the bare network; the label oracle is the best level in
hindsight on the same images, so its lead is a little flattered. Gaps are in points, with a paired bootstrap interval over
images. `--only street` measures one network; what is measured stays in --progress.
"""

import argparse
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import anls_cells as cells
import harness
import robustrestore as rr
from robustrestore.calibrate import coarse_to_fine, select_noise_level
from robustrestore.feature import Features
from robustrestore.metrics import Metric, frechet_distance, paired_difference

DIMS = 16
FEW = (0, 3, 7, 11)  # timesteps 0, 30, 70 and 110: what a per-image choice could afford
Rule = Callable[["Half"], list[float]]


class Half:
    """Attacked images A and held-out clean images B of one cell: features by level, `of(module)` [levels, N, D]."""

    def __init__(self, case: cells.Case, tables: dict[str, dict[str, Tensor]], size: str, number: int) -> None:
        self.case, (a, b) = case, case.halves[number]
        attacked = torch.cat([half for half, _ in case.halves]).sort().values
        where = torch.searchsorted(attacked, a.contiguous())
        self.attacked = {name: table[:, where] for name, table in tables[size].items()}
        self.own = {name: table[:, a] for name, table in tables["clean"].items()}
        self.held = {name: table[:, b] for name, table in tables["clean"].items()}
        self.train = {name: table[0] for name, table in tables["train"].items()}
        self.labels = tables["labels"]["labels"][a]
        self.known: dict[tuple[int, int], Any] = {}

    def statistics(self, metric: Metric, table: dict[str, Tensor], place: int) -> Any:
        """Per image, at a level; measured once."""
        key = (id(table), place)
        if key not in self.known:
            self.known[key] = measured(metric, table["answers"][place], self.labels)
        return self.known[key]


def measured(metric: Metric, answers: Tensor, labels: Tensor) -> Any:
    """A metric's statistics of class numbers [N, ...]."""
    count, found = int(max(answers.max(), labels[labels != 255].max())) + 1, []
    for guess, truth in zip(answers.split(8), labels.split(8), strict=True):
        outputs = F.one_hot(guess.long(), max(count, 11 if labels.dim() > 1 else 21)).movedim(-1, 1)
        found.append(metric.measure(outputs.float(), truth))
    return torch.cat(found).numpy()


def projected(rows: Tensor, dims: int) -> Tensor:
    """As `Features(dims=...)`: onto fixed random directions."""
    if dims >= rows.shape[-1]:
        return rows
    own = torch.Generator().manual_seed(0)
    return rows.double() @ torch.linalg.qr(torch.randn(rows.shape[-1], dims, generator=own, dtype=torch.float64))[0]


def to_train(half: Half, module: int = 0, dims: int = 10_000) -> list[float]:
    name = half.case.modules[module]
    clean = projected(half.train[name], dims)
    return [frechet_distance(projected(rows, dims), clean) for rows in half.attacked[name]]


def to_held(half: Half, module: int = 0, dims: int = 10_000) -> list[float]:
    name = half.case.modules[module]
    clean = projected(half.held[name][0], dims)
    return [frechet_distance(projected(rows, dims), clean) for rows in half.attacked[name]]


def means(half: Half) -> list[float]:
    name = half.case.modules[0]
    return [float((rows.mean(0) - half.held[name][0].mean(0)).square().sum()) for rows in half.attacked[name]]


def purified_too(half: Half) -> list[float]:
    """Distance to clean images purified at that level, plus what that did to them."""
    name = half.case.modules[0]
    pairs = zip(half.attacked[name], half.held[name], strict=True)
    return [frechet_distance(rows, clean) + frechet_distance(clean, half.held[name][0]) for rows, clean in pairs]


def steadiest(half: Half) -> list[float]:
    """Share of answers that differ from the next level's and the last level's: no features, no clean images."""
    answers = half.attacked["answers"]
    moved = [float((one != two).float().mean()) for one, two in pairwise(answers)]
    return [moved[0] * 2, *(one + two for one, two in pairwise(moved)), moved[-1] * 2]


def dissent(half: Half) -> list[float]:
    """Share of answers that differ from the commonest over all levels."""
    answers = half.attacked["answers"]
    common = answers.mode(0).values
    return [float((one != common).float().mean()) for one in answers]


def partners(half: Half) -> list[float]:
    """Mean squared distance of each image's features to those of the very image before the attack, which ANLS does not see."""
    name = half.case.modules[0]
    return [float((rows - half.own[name][0]).square().sum(1).mean()) for rows in half.attacked[name]]


def own_answers(half: Half) -> list[float]:
    """Share of answers that differ from the network's own ones on the very images before the attack."""
    return [float((one != half.own["answers"][0]).float().mean()) for one in half.attacked["answers"]]


RULES: dict[str, Rule] = {
    "ANLS, train images": to_train,
    "ANLS, held-out images": to_held,
    f"ANLS, held-out, {DIMS} directions": lambda half: to_held(half, 0, DIMS),
    "ANLS, held-out, shallower module": lambda half: to_held(half, 1),
    "ANLS, held-out, mean scores": lambda half: to_held(half, 2),
    "means alone, held-out": means,
    "held-out purified too": purified_too,
    "steadiest answers": steadiest,
    "commonest answers": dissent,
    "features of the images before the attack": partners,
    "answers before the attack": own_answers,
}


def typical(half: Half, places: tuple[int, ...], held: bool) -> Tensor:
    """The place [N] that `purifiers.Adaptive` chooses for each image: its score on the features at hand."""
    name = half.case.modules[0]
    clean = half.held[name][0] if held else half.train[name]
    values, vectors = torch.linalg.eigh(torch.cov(clean.double().T))
    whitening = vectors * (values.clamp(min=0) + 1e-3 * values.mean().clamp(min=1e-12)).rsqrt()
    rows = (half.attacked[name][list(places)].double() - clean.double().mean(0)) @ whitening
    return torch.tensor(places)[(rows.square().mean(-1) - 1).abs().argmin(0)]


def walked(curve: list[float]) -> dict[str, Any]:
    """What `coarse_to_fine` chooses on a curve and which timesteps it measures; level 0 is free."""
    seen: dict[int, float] = {}

    def distance(k: int) -> float:
        return seen.setdefault(k, curve[k + 1])

    coarse_to_fine(len(curve) - 1, distance)
    seen[-1] = curve[0]
    best = min(seen, key=lambda k: (seen[k], k))
    return {"place": best + 1, "levels": len(seen) - 1, "calls": sum(cells.TIMESTEPS[k + 1] for k in seen)}


def best_of(halves: list[Half], metric: Metric) -> list[int]:
    """The label oracle's places, one a half."""
    values = [[metric.value(h.statistics(metric, h.attacked, k)) for k in range(len(cells.LEVELS))] for h in halves]
    return [int(np.argmax(row)) for row in values]


def scored(halves: list[Half], metric: Metric, places: list[int], oracle: Any) -> dict[str, Any]:
    """Value of the chosen levels, lead of the oracle, and what the levels cost without attack."""
    own = np.concatenate([h.statistics(metric, h.attacked, k) for h, k in zip(halves, places, strict=True)])
    clean = np.concatenate([h.statistics(metric, h.own, k) for h, k in zip(halves, places, strict=True)])
    gap, interval = paired_difference(metric, oracle, own)
    found = {"timesteps": [cells.TIMESTEPS[k] for k in places], "value": metric.value(own), "clean": metric.value(clean)}
    return rounded({**found, "gap": 100 * gap, "interval": [100 * v for v in interval]})


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """To four digits after the point."""
    keep = {k: [round(v, 2) for v in value] if k == "interval" else value for k, value in row.items()}
    return {k: round(value, 4) if isinstance(value, float) else value for k, value in keep.items()}


def per_image(halves: list[Half], metric: Metric, places: tuple[int, ...], held: bool, oracle: Any) -> dict[str, Any]:
    """`purifiers.Adaptive` over some levels."""
    picks = [typical(half, places, held) for half in halves]

    def of(tables: list[dict[str, Tensor]]) -> Any:
        made = zip(halves, tables, picks, strict=True)
        return np.concatenate([measured(metric, t["answers"][p, torch.arange(len(p))], h.labels) for h, t, p in made])

    own = of([half.attacked for half in halves])
    gap, interval = paired_difference(metric, oracle, own)
    return rounded({"value": metric.value(own), "gap": 100 * gap, "interval": [100 * v for v in interval]})


def cell(case: cells.Case, tables: dict[str, dict[str, Tensor]], size: str) -> dict[str, Any]:
    """Every rule on one cell."""
    halves = [Half(case, tables, size, k) for k in range(len(case.halves))]
    metric = case.task.metrics()[0]
    best = best_of(halves, metric)
    oracle = np.concatenate([h.statistics(metric, h.attacked, k) for h, k in zip(halves, best, strict=True)])
    found = {"label oracle": scored(halves, metric, best, oracle)}
    found["no defence"] = scored(halves, metric, [0] * len(halves), oracle)
    searches = {}
    for name, rule in RULES.items():
        curves = [rule(half) for half in halves]
        found[name] = scored(halves, metric, [c.index(min(c)) for c in curves], oracle)
        walks = [walked(c) for c in curves]
        searches[name] = {**scored(halves, metric, [w["place"] for w in walks], oracle),
                          "levels": [w["levels"] for w in walks], "calls": [w["calls"] for w in walks]}  # fmt: skip
    for held in (False, True):
        kind = "held-out" if held else "train"
        found[f"per image of 16 levels, {kind} images"] = per_image(halves, metric, tuple(range(16)), held, oracle)
        found[f"per image of 4 levels, {kind} images"] = per_image(halves, metric, FEW, held, oracle)
    images = sum(len(half.labels) for half in halves)
    remains = {name: [round(min(c) / c[0], 3) for c in map(rule, halves)] for name, rule in list(RULES.items())[:2]}
    return {
        "metric": metric.name,
        "images": images,
        "distance that remains": remains,
        "rules": found,
        "coarse to fine": searches,
    }


def as_library(case: cells.Case, tables: dict[str, dict[str, Tensor]], size: float) -> dict[str, Any]:
    """ "ANLS, held-out images" on the first half once more, through `select_noise_level` itself: in float32, other noise."""
    images, labels = case.test()
    a, b = case.halves[0]
    attacked = cells.attacked(case, size, images[a], labels[a])
    prior = rr.assets.prior()
    stage, features = rr.purifiers.Diffusion(prior, steps=1, seed=None), Features(case.model, case.modules[0])
    choice = select_noise_level(stage, features, attacked.split(8), images[b], cells.LEVELS)
    mine = to_held(Half(case, tables, f"{size:g}", 0))
    return {"case": case.name, "eps": size, "chosen": round(choice.chosen, 4), "warnings": list(choice.warnings),
            "chosen before": round(cells.LEVELS[mine.index(min(mine))], 4),
            "largest difference of a distance": max(abs(p.distance - m) / m for p, m in zip(choice.points, mine, strict=True)),
            }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("camvid", "ucmerced", "espnet", "networks"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--eps", type=float, nargs="+", default=[4.0], help="of 255")
    parser.add_argument("--only", nargs="+", help="measure these and write nothing")
    parser.add_argument("--progress", type=Path, default=Path(tempfile.gettempdir()) / "robustrestore-anls")
    options = parser.parse_args()
    known = cells.cases(options.camvid, options.espnet, options.ucmerced, options.networks)
    found, check = {}, None
    for key in options.only or known:
        case = known[key]()
        tables = cells.measured(case, key, options.eps, options.progress)
        if options.only:
            continue
        found[case.name] = {f"{eps:g}": cell(case, tables, f"{eps:g}") for eps in options.eps}
        if key == "regnetx_002":
            check = as_library(case, tables, options.eps[0])
    about = {**harness.machine(), "attack": f"PGD-{cells.ATTACK_STEPS}, Linf, oblivious", "timesteps": cells.TIMESTEPS}
    about |= {
        "levels": cells.LEVELS,
        "purifier": "bundled prior, one step, in bfloat16",
        "published calls": {"10..120": 780, "10..150": 1200},
    }
    if not options.only:
        harness.write("anls", {"about": about, "cells": found, "again with other noise": check})


if __name__ == "__main__":
    main()
