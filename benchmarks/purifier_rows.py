"""The rows of a purifier table: which defences, which attackers, how they are measured together and compared.

A purifier that draws has two kinds of row. As it would run, it draws afresh, its attackers average gradients over `samples`
draws (EOT) and every row is scored on one draw. In the column "noise known" it has a fixed seed, so that the attacker knows
every draw and climbs the exact gradient of what is scored: nothing is hidden by chance. The worst column is over all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import robustrestore as rr
from robustrestore import diffusion, guidances, purifiers
from robustrestore.metrics import Statistics
from robustrestore.verdict import compare, worst_case
from robustrestore.weights import fingerprint

COLUMNS = ("no attack", "oblivious", "bpda", "surrogate", "adaptive", "noise known", "worst")
FILTERS: Mapping[str, rr.Stage] = {"blur": purifiers.Blur(), "median": purifiers.Median(), "JPEG": purifiers.Jpeg()}
BARE, KNOWN = "no defence", "noise known"
PURIFIERS = ("one-step", "DDIM", "DDPM", "DiffPure", "GDMP", "AGDM", "ensemble")
Cells = dict[str, dict[str, dict[str, Statistics]]]  # defence, column, metric


@dataclass(frozen=True)
class Case:
    """All that differs between the sets; one of these is all that a further set has to hand over.

    `eps`: sizes in units of [0, 1] images: all columns for the first; for the others, of `few` rows, the attacker who sees
    exactly what is scored: filters adaptive, purifiers with known noise.
    `sigma`, `steps`, `fewer`: of every chain and of its surrogate. `attack_steps`, `samples`: of PGD, and its draws (EOT).
    `step`: of PGD, as a share of eps. `pixel`, `agdm`: strengths of guidance. `auxiliary`: AGDM's network, None for no such
    row; `class_weight`: of its class term, 0 where there are no classes. `tuning`: batches that choose AGDM's strength and
    have no image of the small table (agdm_strengths.py). `alone`: models that are rows by themselves. `terms`: AGDM's terms
    apart, as rows too.
    `thorough`: purifiers with a BPDA and a surrogate column; `known`: those with a column of known noise.
    """

    model: nn.Module
    batches: Sequence[tuple[Tensor, Tensor]]
    task: rr.Task
    denoiser: diffusion.Denoiser
    sigma: float
    eps: Sequence[float] = (4 / 255, 2 / 255, 8 / 255)
    steps: int = 3
    fewer: int = 1
    runs: int = 3
    attack_steps: int = 10
    step: float = 0.25
    samples: int = 2
    pixel: float = 100.0
    agdm: float = 0.1
    auxiliary: nn.Module | None = None
    class_weight: float = 1.0
    tuning: Sequence[tuple[Tensor, Tensor]] = ()
    alone: Mapping[str, nn.Module] = field(default_factory=dict)
    terms: bool = False
    few: Sequence[str] = ("blur", "JPEG", "one-step", "DDPM")
    thorough: Sequence[str] = PURIFIERS
    known: Sequence[str] = PURIFIERS
    checkpointed: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)

    def attack(self, eps: float, samples: int) -> rr.attacks.PGD:
        """PGD of that size."""
        return rr.attacks.PGD(rr.Linf(eps), steps=self.attack_steps, step=self.step * eps, samples=samples)

    def settings(self) -> dict[str, Any]:
        """All that the rows depend on, the model, the images and the size of the attack aside."""
        plain = ("class_weight", "sigma", "steps", "fewer", "runs", "attack_steps", "step", "samples", "pixel", "agdm")
        weights = {"auxiliary weights": None if self.auxiliary is None else fingerprint(self.auxiliary)}
        return {**self.about, **{name: getattr(self, name) for name in plain}, **weights}


@dataclass(frozen=True)
class Group:
    """One call of `rr.evaluate`: defences of the same kind, through the same views. `column`: what "adaptive" is called.

    The view "from NAME" is that of an attacker who climbs the model of that name, one of `Case.alone`, instead.
    """

    name: str
    stages: Mapping[str, rr.Stage]
    samples: int = 1
    views: Sequence[str] = ("oblivious", "bpda", "adaptive")
    column: str = "adaptive"
    model: nn.Module | None = None


def chains(case: Case, seed: int | None) -> dict[str, rr.Stage]:
    """The diffusion purifiers by name; with `seed` None they draw afresh."""
    grid = diffusion.TimestepGrid()

    def chain(sampler: diffusion.Sampler, guidance: diffusion.Guidance | None = None, steps: int = case.steps) -> rr.Stage:
        return purifiers.Diffusion(
            case.denoiser, case.sigma, steps, sampler, seed, guidance=guidance, checkpointed=case.checkpointed
        )

    one, ancestral = chain(diffusion.OneStep(), steps=1), diffusion.DDPM(grid)
    found = {
        "one-step": one,
        "DDIM": chain(diffusion.DDIM(grid=grid)),
        "DDPM": chain(ancestral),
        "DiffPure": chain(diffusion.VPSDE(grid)),
        "GDMP": chain(ancestral, guidances.PixelGuidance(case.pixel)),
        "ensemble": purifiers.Ensemble(one, case.runs),
    }
    if case.auxiliary is not None:
        found["AGDM"] = chain(ancestral, guidances.AGDM(case.auxiliary, case.agdm, class_weight=case.class_weight))
        if case.terms:
            found["AGDM, features alone"] = chain(ancestral, guidances.AGDM(case.auxiliary, case.agdm, class_weight=0))
            found["AGDM, class alone"] = chain(ancestral, guidances.AGDM(case.auxiliary, case.agdm, feature_weight=0))
    return found


def groups(case: Case, eps: float) -> Iterator[Group]:
    """What is measured at one size, cheapest first."""
    fresh, fixed, main = chains(case, None), chains(case, 0), eps == case.eps[0]
    for name, model in case.alone.items():
        yield Group(name, {}, model=model)
    if not main:
        yield Group("filters", {k: v for k, v in FILTERS.items() if k in case.few}, views=("adaptive",))
        yield Group("fixed", {k: v for k, v in fixed.items() if k in case.few}, 1, ("adaptive",), "noise known")
        return
    yield Group("filters", FILTERS)
    for guided in (False, True):  # apart, so that AGDM can come later, with its network
        known = {name: stage for name, stage in fixed.items() if name.startswith("AGDM") == guided and name in case.known}
        first = {name: stage for name, stage in known.items() if guided or name in case.thorough}
        rest = {name: stage for name, stage in known.items() if name not in first}
        for what, stages in (("fixed", first), ("fixed, the others", rest)):
            if stages:
                yield Group(f"{what}{' AGDM' * guided}", stages, views=("adaptive",), column="noise known")
        alike: dict[tuple[str, ...], dict[str, rr.Stage]] = {}
        for name, stage in fresh.items():
            if name.startswith("AGDM") == guided:
                alike.setdefault(_views(case, name, stage), {})[name] = stage
        for views, stages in alike.items():
            yield Group(f"fresh{' AGDM' * guided} {' '.join(views)}", stages, case.samples, views)


def _views(case: Case, name: str, stage: rr.Stage) -> tuple[str, ...]:
    """What attackers of a purifier that draws see; a chain no longer than the surrogate has none."""
    if name not in case.thorough:
        return ("oblivious", "adaptive")
    shorter = getattr(stage, "steps", 1) > case.fewer
    return ("oblivious", "bpda", *(("surrogate",) if shorter else ()), "adaptive")


def measured(case: Case, eps: float, group: Group, folder: Path) -> tuple[Cells, rr.Report]:
    """The cells of one group, and its report; resumable in `folder`."""
    known = {**rr.VIEWS, "surrogate": rr.surrogate(case.fewer)}
    known |= {f"from {name}": partial(_instead, model) for name, model in case.alone.items()}
    pipeline = rr.DefendedPipeline(case.model if group.model is None else group.model)
    report = rr.evaluate(
        pipeline,
        case.batches,
        case.task,
        [case.attack(eps, group.samples)],
        views={name: known[name] for name in group.views},
        baselines=group.stages,
        folder=folder,
    )
    cells: Cells = {}
    for (defence, attack, view), table in report.statistics.items():
        if view == "worst" or (defence == "none" and group.model is None and group.name != "filters"):
            continue
        name = {"none": BARE if group.model is None else group.name}.get(defence, defence)
        if attack == "none" and group.column == "noise known":
            column = "fixed, no attack"
        else:
            column = "no attack" if attack == "none" else group.column if view in ("adaptive", "-") else view
        cells.setdefault(name, {})[column] = table
    return cells, report


def warnings(report: rr.Report) -> list[str]:
    """What a report warns of; that a random purifier is random is no news here."""
    return [line for line in report.verdicts if not line.startswith("Not repeatable")]


def _instead(model: nn.Module, _: rr.DefendedPipeline) -> nn.Module:
    """What an attacker sees who transfers from another model."""
    return model


def with_worst(case: Case, cells: Cells) -> Cells:
    """Each defence with its worst case over all of its columns: for one that draws, only if it was met with known noise.

    Without that column its worst case would look better than that of a row which has it.
    """
    metrics, drawn = case.task.metrics(), set(chains(case, None))
    return {
        name: {**row, **({"worst": worst_case(metrics, list(row.values()))} if name not in drawn or KNOWN in row else {})}
        for name, row in cells.items()
    }


def rows(case: Case, cells: Cells) -> list[dict[str, Any]]:
    """The cells as numbers with intervals, in the order of COLUMNS."""
    found = []
    for name, row in cells.items():
        for column in (c for c in COLUMNS if c in row):
            values = {m.name: round(m.value(row[column][m.name]), 6) for m in case.task.metrics()}
            intervals = {m.name: [round(v, 6) for v in m.interval(row[column][m.name])] for m in case.task.metrics()}
            count = len(row[column][case.task.metrics()[0].name])
            found.append({"defence": name, "column": column, "count": count, "values": values, "intervals": intervals})
    return found


def verdicts(case: Case, cells: Cells) -> list[str]:
    """Worst case of each defence against no defence, and of each that is no filter against the best filter."""
    metric = case.task.metrics()[0]

    def worst(name: str) -> Statistics:
        return cells[name]["worst"][metric.name]

    cells = {name: row for name, row in cells.items() if "worst" in row}
    filters = [name for name in FILTERS if name in cells]
    best = max(filters, key=lambda name: metric.value(worst(name)))
    said = [
        compare(metric, worst(name), worst(BARE), f"Worst case, {name} against no defence") for name in cells if name != BARE
    ]
    said += [
        compare(metric, worst(name), worst(best), f"Worst case, {name} against {best} (the best filter)")
        for name in cells
        if name not in (*filters, BARE)
    ]
    return said + _guidance(case, cells)


def _guidance(case: Case, cells: Cells) -> list[str]:
    """Each guidance against the chain without one, and AGDM against its network alone, with known noise."""
    metric, known = case.task.metrics()[0], KNOWN

    def said(name: str, other: str, column: str) -> list[str]:
        if known not in cells.get(name, {}) or column not in cells.get(other, {}):
            return []
        tables = cells[name][known][metric.name], cells[other][column][metric.name]
        return [compare(metric, *tables, f"Noise known, {name} against {other}")]

    guided = [name for name in cells if name == "GDMP" or name.startswith("AGDM")]
    against = [line for name in guided for line in said(name, "DDPM", known)]
    return against + [line for name in case.alone for line in said("AGDM", name, "adaptive")]
