"""score: what a defence is worth on images that were attacked before, perhaps against something else."""

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .adversarial_set import AdversarialSet, Attacked, identity_of
from .attack import Model, one_tensor
from .evaluate import VIEWS
from .measurement import NO_ATTACK, UNDEFENDED, Key
from .metrics import Metric, Statistics
from .modes import evaluating, seeded
from .pipeline import DefendedPipeline
from .report import Report, Row
from .stage import Stage
from .task import Task
from .verdict import compare
from .weights import fingerprint

TRANSFER = "transfer"  # the images were made against something else
SHOWN = 4  # images in a report's picture


def score(
    pipeline: DefendedPipeline,
    attacked: AdversarialSet,
    task: Task | None = None,
    baselines: Sequence[Stage] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Clean and attacked rows of the bare model, the pipeline, and every baseline as a defence of its own.

    The view column says whom the images were made by: oblivious, bpda or adaptive where they were made against this model
    or this very defence, otherwise "transfer". Verdicts say which defences have been shown no attacker who knows them.
    `task`: by default that of the set. `seed` drives what has none of its own. `progress(done, total)`: after each batch.
    """
    if not isinstance(pipeline, DefendedPipeline):
        raise TypeError(
            f"pipeline: expected a DefendedPipeline, got {type(pipeline).__name__}: write DefendedPipeline(model, [])"
        )
    run = _Scoring(pipeline, attacked, attacked.task if task is None else task, baselines)
    for number in range(len(attacked)):
        run.batch(attacked.batch(number), seed + 7919 * number)
        progress(number + 1, len(attacked))
    return run.report(seed)


class _Scoring:
    """Rows by defence, attack and view, filled a batch at a time."""

    def __init__(self, pipeline: DefendedPipeline, attacked: AdversarialSet, task: Task, baselines: Sequence[Stage]) -> None:
        self.pipeline, self.attacked, self.task, self.metrics = pipeline, attacked, task, task.metrics()
        every = [pipeline, *(DefendedPipeline(pipeline.model, [stage]) for stage in baselines)]
        every = [one for one in every if len(one.stages)]
        names = [" > ".join(type(stage).__name__ for stage in one.stages) for one in every]
        names = [n if names.count(n) == 1 else f"{n} #{names[:k].count(n) + 1}" for k, n in enumerate(names)]
        self.defences = dict(zip(names, every, strict=True))
        made = attacked.manifest["model"]["identity"]
        self.views = {UNDEFENDED: "-" if identity_of(pipeline.predict)[1] == made else TRANSFER}
        for name, one in self.defences.items():
            self.views[name] = next((view for view, seen in VIEWS.items() if identity_of(seen(one))[1] == made), TRANSFER)
        self.models: dict[str, Model] = {UNDEFENDED: pipeline.predict, **self.defences}
        self.found: dict[Key, list[dict[str, Statistics]]] = {}
        self.pictures: dict[str, Tensor] = {}
        self.place = next((p.device for p in pipeline.parameters()), torch.device("cpu"))

    def batch(self, batch: Attacked, seed: int) -> None:
        """Add one batch to every row."""
        target, versions = batch.target.to(self.place), {NO_ATTACK: batch.clean, self.attacked.attack: batch.images}
        first = not self.found
        for name, model in self.models.items():
            for attack, images in versions.items():
                shown = images.to(self.place)
                with torch.no_grad(), evaluating(self.pipeline, *self.defences.values()), seeded(seed):
                    outputs = one_tensor(model(shown))
                self.task.check(outputs, target)
                key = name, attack, "-" if attack == NO_ATTACK else self.views[name]
                scores = {m.name: m.measure(outputs, target).double().cpu().numpy() for m in self.metrics}
                self.found.setdefault(key, []).append(scores)
                if first:
                    self._picture(f"{name}, {'clean' if attack == NO_ATTACK else 'attacked'}", shown, outputs)

    def _picture(self, name: str, images: Tensor, outputs: Tensor) -> None:
        if name.startswith(f"{UNDEFENDED},"):
            self.pictures[name.removeprefix(f"{UNDEFENDED}, ")] = images[:SHOWN, :3].expand(-1, 3, -1, -1).cpu()
        self.pictures[f"output: {name}"] = self.task.render(outputs, images)[:SHOWN].cpu()

    def report(self, seed: int) -> Report:
        """All batches together."""
        tables = {
            key: {m.name: np.concatenate([scores[m.name] for scores in found]) for m in self.metrics}
            for key, found in self.found.items()
        }
        rows = [self._row(key, table) for key, table in tables.items()]
        return Report(rows, self._said() + self._compared(tables), self._about(seed), self.pictures)

    def _row(self, key: Key, table: dict[str, Statistics]) -> Row:
        values = {m.name: m.value(table[m.name]) for m in self.metrics}
        return Row(*key, len(table[self.metrics[0].name]), values, {m.name: m.interval(table[m.name]) for m in self.metrics})

    def _said(self) -> list[str]:
        """For whom the images were made, a sentence a defence."""
        against, said = self.attacked.against, []
        for name in self.models:
            who = "the bare model" if name == UNDEFENDED else name
            if self.views[name] in (TRANSFER, "oblivious"):
                said.append(
                    f"Not made against {who}: these images were made against {against} by {self.attacked.attack}, so they say "
                    "nothing of an attacker who aims at it; evaluate attacks it anew."
                )
            else:
                said.append(f"Made against {who}{'' if name == UNDEFENDED else f' ({self.views[name]})'}.")
        return said

    def _compared(self, tables: dict[Key, dict[str, Statistics]]) -> list[str]:
        """The first defence against every other one and none, on the attacked images."""
        metric: Metric = self.metrics[0]
        rows = {name: tables[name, self.attacked.attack, self.views[name]][metric.name] for name in self.models}
        if len(rows) < 2:
            return []
        own, *others = self.defences
        return [
            *(compare(metric, rows[own], rows[n], f"On these images, {own} against {n} (baseline)") for n in others),
            compare(metric, rows[own], rows[UNDEFENDED], f"On these images, {own} against no defence"),
        ]

    def _about(self, seed: int) -> dict[str, Any]:
        kept = ("attack", "threat", "goal", "model", "dtype", "counts", "notes")
        return {
            "attacked images": {"seed": self.attacked.manifest["seed"], **{k: self.attacked.manifest[k] for k in kept}},
            "task": repr(self.task),
            "seed": seed,
            "defences": {name: [repr(stage) for stage in one.stages] for name, one in self.defences.items()},
            "weights": {UNDEFENDED: fingerprint(self.pipeline), **{n: fingerprint(p) for n, p in self.defences.items()}},
            "device": str(self.place),
            "versions": {name: metadata.version(name) for name in ("robustrestore", "torch", "numpy")},
        }
