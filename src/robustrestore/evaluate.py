"""evaluate: what a defence is worth, against attackers who do not know it and attackers who do."""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .attack import Attack, Model, one_tensor
from .files import digest
from .identity import of_attributes, of_callable
from .images import check_images, trusted
from .journal import Journal
from .metrics import Statistics
from .modes import evaluating, seeded
from .pipeline import DefendedPipeline
from .report import Report, Row
from .search import ascent
from .stage import Stage
from .task import Objective, Task
from .verdict import compare, worst_case
from .weights import fingerprint

View = Callable[[DefendedPipeline], Model]
Key = tuple[str, str, str]  # defence, attack, view

UNDEFENDED, NO_ATTACK, WORST = "none", "none", "worst"
SHOWN = 4  # images in a report's picture
VIEWS: Mapping[str, View] = {
    "oblivious": lambda pipeline: pipeline.predict,
    "bpda": lambda pipeline: pipeline.straight_through(),
    "adaptive": lambda pipeline: pipeline,
}
"""What an attacker differentiates, by name, given the pipeline: the three views that are measured by default."""


def evaluate(
    pipeline: DefendedPipeline,
    batches: Iterable[tuple[Tensor, Tensor]],
    task: Task,
    attacks: Sequence[Attack],
    views: Mapping[str, View] = VIEWS,
    baselines: Sequence[Stage] = (),
    seed: int = 0,
    folder: str | Path | None = None,
) -> Report:
    """Attack the bare model and, through every view, the defended one; score all of it.

    `batches` yields (images [N, C, H, W] in [0, 1], target as `task` wants it). Rows: no attack, undefended under attack,
    and for each view the defended model under the attack that this view made. `views` maps a name to what the attacker
    differentiates, given the pipeline; add `"surrogate": lambda p: ...` for more. Every baseline stage is measured as a
    defence of its own beside the pipeline. Row "worst": per image the worst of all attacks and views.

    With `folder`, finished batches are kept there and not redone by a later call with the same arguments. `seed` drives all
    randomness that has no seed of its own: attacks and purifiers with `seed=None`, stages that draw from PyTorch's
    generator. The model is handed back in the mode it came in.
    """
    _check_arguments(pipeline, batches, task, attacks, views)
    run = _Evaluation(pipeline, task, attacks, views, baselines, seed)
    journal = None if folder is None else Journal(Path(folder), {**run.about(), "attributes": of_attributes(pipeline)})
    found: list[dict[str, Tensor]] = []
    for number, batch in enumerate(batches):
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise TypeError(f"batches: expected (images, target) pairs, got {type(batch).__name__}: hand over both")
        images, target = batch
        if not isinstance(target, Tensor):
            raise TypeError(f"batches: expected the target as a tensor, got {type(target).__name__}: use torch.as_tensor")
        check_images(images)
        inputs = digest(images, target)
        done = journal.read(number, inputs) if journal is not None else None
        if done is None:
            done = run.batch(number, images, target)
            if journal is not None:
                journal.write(number, inputs, done)
        found.append(done)
    if not found:
        raise ValueError("batches: expected at least one (images, target) pair, got none")
    return run.report(found)


def _check_arguments(pipeline: object, batches: object, task: object, attacks: object, views: object) -> None:
    """The usual slips, named."""
    if not isinstance(pipeline, DefendedPipeline):
        raise TypeError(
            f"pipeline: expected a DefendedPipeline, got {type(pipeline).__name__}: write DefendedPipeline(model, [])"
        )
    if not isinstance(task, Task):
        raise TypeError(f"task: expected a task such as rr.tasks.Segmentation(), got {task!r}")
    if not isinstance(views, Mapping):
        raise TypeError(f"views: expected a mapping of names to functions of the pipeline, got {type(views).__name__}")
    if not isinstance(attacks, Sequence) or not all(isinstance(attack, Attack) for attack in attacks):
        raise TypeError(f"attacks: expected a list of attacks, got {attacks!r}: write [rr.attacks.PGD(rr.Linf(8 / 255))]")
    if isinstance(batches, tuple) and any(isinstance(part, Tensor) for part in batches):
        raise TypeError("batches: expected batches of (images, target), got one pair of tensors: write [(images, target)]")


@dataclass
class _Batch:
    """What one batch is and what has been found: outputs by row, images without gradient by row, what a picture shows."""

    images: Tensor
    target: Tensor
    objective: Objective
    rows: dict[Key, Tensor] = field(default_factory=dict)
    blind: dict[Key, Tensor] = field(default_factory=dict)
    shown: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shown["input"] = self.images


class _Evaluation:
    """The plan of one evaluation: which rows there are, how a batch fills them, what a report makes of them."""

    def __init__(
        self,
        pipeline: DefendedPipeline,
        task: Task,
        attacks: Sequence[Attack],
        views: Mapping[str, View],
        baselines: Sequence[Stage],
        seed: int,
    ) -> None:
        self.pipeline, self.task, self.attacks, self.views, self.seed = pipeline, task, attacks, views, seed
        self.metrics = task.metrics()
        own = [pipeline] if len(pipeline.stages) else []
        defences = own + [DefendedPipeline(pipeline.model, [stage]) for stage in baselines]
        self.defences = dict(zip(_labels(defences), defences, strict=True))
        self.names = dict(zip(_unique([repr(attack) for attack in attacks]), attacks, strict=True))

    def about(self) -> dict[str, Any]:
        """All that the results depend on, the images aside."""
        packages = ("robustrestore", "torch", "torchmetrics", "diffusers", "numpy")
        device = next((str(p.device) for p in self.pipeline.parameters()), "cpu")
        return {
            "model": f"{of_callable(type(self.pipeline.model))} {self.pipeline.model!r}",
            "task": repr(self.task),
            "seed": self.seed,
            "attacks": list(self.names),
            "views": {name: of_callable(view) for name, view in self.views.items()},
            "defences": {name: [repr(stage) for stage in p.stages] for name, p in self.defences.items()},
            "weights": {name: fingerprint(p) for name, p in {UNDEFENDED: self.pipeline, **self.defences}.items()},
            "device": device,
            "python": platform.python_version(),
            "versions": {name: _version(name) for name in packages},
            "intervals": "95 %: expanded percentile bootstrap over images (1000), Clopper-Pearson for shares of images",
        }

    def batch(self, number: int, images: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Statistics of every row, attacks without gradient, and the pictures of the first images, as tensors by name."""
        done = _Batch(images, target, self.task.untargeted(target))
        with evaluating(self.pipeline, *self.defences.values()), seeded(self.seed + 7919 * number):
            bare = _outputs(self.pipeline.predict, images)
            self.task.check(bare, target)  # before any attack is paid for
            done.rows[UNDEFENDED, NO_ATTACK, "-"] = done.shown["output, no attack"] = bare
            for name, defence in self.defences.items():
                done.rows[name, NO_ATTACK, "-"] = _outputs(defence, images)
            for name, attack in self.names.items():
                self._attacked(name, attack, done)
        out = {}
        for index, (key, outputs) in enumerate(done.rows.items()):
            self.task.check(outputs, target)  # a defence that gives NaN must not score as class 0
            for metric in self.metrics:
                out[f"{index:04d}/{metric.name}"] = metric.measure(outputs, target).double().cpu()
            if key in done.blind:
                out[f"{index:04d}/blind"] = done.blind[key].cpu()
        return out | (self._pictures(done.shown, images) if number < SHOWN else {})

    def _attacked(self, name: str, attack: Attack, done: "_Batch") -> None:
        """The rows of one attack: on the bare model, and on every defence as each view sees it."""
        images, objective = done.images, done.objective
        bare = attack(self.pipeline.predict, images, objective)
        done.rows[UNDEFENDED, name, "-"] = _outputs(self.pipeline.predict, bare)
        blind = done.blind[UNDEFENDED, name, "-"] = _blind(self.pipeline.predict, images, bare, objective)
        done.shown["attacked (bare model)"], done.shown["its output"] = bare, done.rows[UNDEFENDED, name, "-"]
        for label, defence in self.defences.items():
            for view_name, view in self.views.items():
                seen, key = view(defence), (label, name, view_name)
                owner = getattr(getattr(seen, "__self__", None), "model", None)
                # `predict` of the same model is the bare attack again
                known = getattr(seen, "__func__", None) is DefendedPipeline.predict and owner is self.pipeline.model
                attacked = bare if known else attack(seen, images, objective)
                done.blind[key] = blind if known else _blind(seen, images, attacked, objective)
                outputs = done.rows[key] = _outputs(defence, attacked)
                if defence is self.pipeline:
                    done.shown |= self._stages(attacked, outputs, view_name)

    def _stages(self, attacked: Tensor, outputs: Tensor, view: str) -> dict[str, Tensor]:
        """What a picture shows of one view: the attack, each stage's images, the output."""
        if view not in ("oblivious", "adaptive"):
            return {}
        shown = {} if view == "oblivious" else {"attacked (adaptive)": attacked}
        images = attacked
        with torch.no_grad(), trusted():
            for stage in self.pipeline.stages:
                images = stage(images)
                shown[f"after {type(stage).__name__} ({view})"] = images
        return {**shown, f"defended output ({view})": outputs}

    def _pictures(self, shown: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
        """Bytes [K, 3, H, W] by numbered name."""
        out = {}
        for index, (name, tensor) in enumerate(shown.items()):
            is_images = name == "input" or name.startswith(("attacked", "after"))
            picture = tensor[:, :3].expand(-1, 3, -1, -1) if is_images else self.task.render(tensor, images)
            out[f"picture/{index:02d} {name}"] = (picture[:SHOWN].detach().float().clamp(0, 1) * 255).round().byte().cpu()
        return out

    def plan(self) -> list[Key]:
        """The rows that `batch` fills, in its order."""
        rows = [(UNDEFENDED, NO_ATTACK, "-"), *((name, NO_ATTACK, "-") for name in self.defences)]
        for attack in self.names:
            rows.append((UNDEFENDED, attack, "-"))
            rows += [(name, attack, view) for name in self.defences for view in self.views]
        return rows

    def report(self, found: list[dict[str, Tensor]]) -> Report:
        """All batches together."""
        tables: dict[Key, dict[str, Statistics]] = {}
        for index, key in enumerate(self.plan()):
            tables[key] = {
                m.name: np.concatenate([done[f"{index:04d}/{m.name}"].numpy() for done in found]) for m in self.metrics
            }
        for name in [UNDEFENDED, *self.defences] if self.attacks else []:
            tables[name, "all", WORST] = worst_case(self.metrics, [t for key, t in tables.items() if key[0] == name])
        names = sorted(name for name in found[0] if name.startswith("picture/"))
        shown = [done for done in found[:SHOWN] if all(done[n].shape[1:] == found[0][n].shape[1:] for n in names)]
        pictures = {name.split(" ", 1)[1]: torch.cat([done[name] for done in shown])[:SHOWN].float() / 255 for name in names}
        about = {**self.about(), "images": sum(len(done[next(iter(done))]) for done in found)}
        return Report(
            [self._row(key, t) for key, t in tables.items()], self._verdicts(tables) + self._warnings(found), about, pictures
        )

    def _row(self, key: Key, table: dict[str, Statistics]) -> Row:
        values = {m.name: m.value(table[m.name]) for m in self.metrics}
        intervals = {m.name: m.interval(table[m.name]) for m in self.metrics}
        return Row(*key, len(table[self.metrics[0].name]), values, intervals)

    def _warnings(self, found: list[dict[str, Tensor]]) -> list[str]:
        """One sentence for each row whose attacker had no gradient to follow: such a row looks safe and shows nothing."""
        said = []
        for index, (defence, attack, view) in enumerate(self.plan()):
            marks = torch.cat([done.get(f"{index:04d}/blind", torch.zeros(0, dtype=torch.bool)) for done in found])
            if count := int(marks.sum()):
                seen = "bare model" if defence == UNDEFENDED else f"{defence}, {view}"
                said.append(f"No evidence: {seen}, {attack}: no gradient for {count} of {len(marks)} images.")
        return said

    def _verdicts(self, tables: dict[Key, dict[str, Statistics]]) -> list[str]:
        """The defence in its worst case against every baseline and none, and what it costs without attack."""
        if not len(self.pipeline.stages) or not self.attacks:
            return []
        metric, (own, *others) = self.metrics[0], self.defences

        def against(other: str, attack: str, view: str, what: str) -> str:
            mine, theirs = (tables[name, attack, view][metric.name] for name in (own, other))
            return compare(metric, mine, theirs, what)

        said = [against(name, "all", WORST, f"Worst case, {own} against {name} (baseline)") for name in others]
        said.append(against(UNDEFENDED, "all", WORST, f"Worst case, {own} against no defence"))
        return [*said, against(UNDEFENDED, NO_ATTACK, "-", f"Without attack, {own} against no defence")]


def _outputs(model: Model, images: Tensor) -> Tensor:
    with torch.no_grad():
        return one_tensor(model(images))


def _blind(model: Model, images: Tensor, attacked: Tensor, objective: Objective) -> Tensor:
    """Which images [N] give an attacker no gradient, neither as they are nor attacked: saturated logits, hidden rounding."""
    found = torch.ones(len(images), dtype=torch.bool, device=images.device)
    with torch.enable_grad(), trusted():
        for place in (attacked, images):
            if bool(found.any()):
                try:
                    _, gradient = ascent(model, place, objective)
                except ValueError:  # no graph at all: the attack that came this far needs none
                    return torch.zeros_like(found)
                found &= (gradient == 0).flatten(1).all(1)
    return found


def _labels(pipelines: Sequence[DefendedPipeline]) -> list[str]:
    return _unique([" > ".join(type(stage).__name__ for stage in pipeline.stages) for pipeline in pipelines])


def _unique(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} #{names[:k].count(name) + 1}" for k, name in enumerate(names)]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
