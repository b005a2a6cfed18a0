"""All batches of an evaluation together: rows, verdicts, warnings."""

import itertools

import numpy as np
import torch
from torch import Tensor

from .diagnosis import SAID
from .measurement import NO_ATTACK, SHOWN, UNDEFENDED, WORST, Key, Measurement
from .metrics import Statistics
from .report import Report, Row
from .verdict import compare, worst_case

Tables = dict[Key, dict[str, Statistics]]


def summarise(run: Measurement, found: list[dict[str, Tensor]]) -> Report:
    """The report of what `run.batch` gave for every batch."""
    tables: Tables = {
        key: {m.name: _joined(found, f"{index:04d}/{m.name}") for m in run.metrics} for index, key in enumerate(run.plan())
    }
    for name in run.models if run.attacks else []:
        tables[name, "all", WORST] = worst_case(run.metrics, [t for key, t in tables.items() if key[0] == name])
    names = sorted(name for name in found[0] if name.startswith("picture/"))
    shown = [done for done in found[:SHOWN] if all(done[n].shape[1:] == found[0][n].shape[1:] for n in names)]
    pictures = {name.split(" ", 1)[1]: torch.cat([done[name] for done in shown])[:SHOWN].float() / 255 for name in names}
    about = {**run.about(), "images": len(_joined(found, f"0000/{run.metrics[0].name}"))}
    said = _verdicts(run, tables) + _warnings(run, found) + _beaten(run, tables, found)
    return Report([_row(run, key, table) for key, table in tables.items()], said, about, pictures, tables)


def _joined(found: list[dict[str, Tensor]], name: str) -> Statistics:
    joined: Statistics = np.concatenate([done[name].numpy() for done in found])
    return joined


def _row(run: Measurement, key: Key, table: dict[str, Statistics]) -> Row:
    values = {m.name: m.value(table[m.name]) for m in run.metrics}
    intervals = {m.name: m.interval(table[m.name]) for m in run.metrics}
    return Row(*key, len(table[run.metrics[0].name]), values, intervals)


def _called(defence: str) -> str:
    return "bare model" if defence == UNDEFENDED else defence


def _warnings(run: Measurement, found: list[dict[str, Tensor]]) -> list[str]:
    """What makes rows worthless, a sentence each: no gradient, NaN, random outputs, probabilities for logits."""
    said = []
    for index, (defence, attack, view) in enumerate(run.plan()):
        parts = [_called(defence), *([] if view == "-" else [view]), *([] if attack == NO_ATTACK else [attack])]
        for name, sentence in SAID.items():
            marks = [done[f"{index:04d}/mark/{name}"] for done in found if f"{index:04d}/mark/{name}" in done]
            if marks and (count := int(torch.cat(marks).sum())):
                said.append(sentence.format(row=", ".join(parts), count=count, total=len(torch.cat(marks))))
    return said


def _beaten(run: Measurement, tables: Tables, found: list[dict[str, Tensor]]) -> list[str]:
    """The attacks that, through every view of a defence, did less than a change that needs no thought."""
    metric, said = run.metrics[0], []
    for defence, attack, what in itertools.product(run.models, run.names, run.trivial):
        own = run.names[attack]
        if not what.endswith(f" of {own.threat!r}") or not (own.ascends and own.fills) or own.mirrors:
            continue
        mine = min(metric.value(t[metric.name]) for key, t in tables.items() if key[:2] == (defence, attack))
        theirs = metric.value(_joined(found, f"trivial/{defence}/{what}/{metric.name}"))
        if theirs < mine - 1e-6:
            figures = f"{metric.name} {theirs:.3f} against {mine:.3f}"
            said.append(f"Weak attack: {_called(defence)}, {attack}: {what} does more ({figures}).")
    return said


def _verdicts(run: Measurement, tables: Tables) -> list[str]:
    """The defence in its worst case against every baseline and none, and what it costs without attack."""
    if not len(run.pipeline.stages) or not run.attacks:
        return []
    metric, (own, *others) = run.metrics[0], run.defences

    def against(other: str, attack: str, view: str, what: str) -> str:
        mine, theirs = (tables[name, attack, view][metric.name] for name in (own, other))
        return compare(metric, mine, theirs, what)

    said = [against(name, "all", WORST, f"Worst case, {own} against {name} (baseline)") for name in others]
    said.append(against(UNDEFENDED, "all", WORST, f"Worst case, {own} against no defence"))
    return [*said, against(UNDEFENDED, NO_ATTACK, "-", f"Without attack, {own} against no defence")]
