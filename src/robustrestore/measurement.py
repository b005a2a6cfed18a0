"""One evaluation, batch by batch: which rows there are, and how a batch fills them."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from .attack import Attack, Model, untouched
from .diagnosis import Marks, of_gradients, of_outputs, trivial
from .identity import of_callable, of_settings
from .images import trusted
from .modes import evaluating, seeded
from .pipeline import DefendedPipeline
from .stage import Stage
from .task import Objective, Task
from .weights import fingerprint

View = Callable[[DefendedPipeline], Model]
Key = tuple[str, str, str]  # defence, attack, view

UNDEFENDED, NO_ATTACK, WORST = "none", "none", "worst"
SHOWN = 4  # images in a report's picture


@dataclass
class _Batch:
    """What one batch is and what has been found.

    Outputs and symptoms by row, outputs under trivial changes, pictures, and which (defence, view) sees just what is scored.
    """

    images: Tensor
    target: Tensor
    objective: Objective
    rows: dict[Key, Tensor] = field(default_factory=dict)
    marks: dict[Key, Marks] = field(default_factory=dict)
    trivial: dict[str, Tensor] = field(default_factory=dict)
    shown: dict[str, Tensor] = field(default_factory=dict)
    exact: dict[tuple[str, str], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shown["input"] = self.images


class Measurement:
    """The plan of one evaluation: which rows there are, and how a batch fills them."""

    def __init__(
        self,
        pipeline: DefendedPipeline,
        task: Task,
        attacks: Sequence[Attack],
        views: Mapping[str, View],
        baselines: Sequence[Stage] | Mapping[str, Stage],
        seed: int,
    ) -> None:
        self.pipeline, self.task, self.attacks, self.views, self.seed = pipeline, task, attacks, views, seed
        self.metrics = task.metrics()
        self.defences = _defences(pipeline, baselines)
        self.models: dict[str, Model] = {UNDEFENDED: pipeline.predict, **self.defences}
        threats = {
            repr(attack.threat): attack.threat for attack in attacks if attack.ascends and attack.fills and not attack.mirrors
        }
        self.trivial = {f"{what} of {name}": a for name, threat in threats.items() for what, a in trivial(threat).items()}
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
            "defences": {name: [repr(part) for part in _parts(p)] for name, p in self.defences.items()},
            "weights": {name: fingerprint(p) for name, p in {UNDEFENDED: self.pipeline, **self.defences}.items()}
            | {name: own for name, attack in self.names.items() if (own := of_settings(attack))},
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
            done.shown["output, no attack"] = bare
            for name, model in self.models.items():
                key, outputs = (name, NO_ATTACK, "-"), bare if name == UNDEFENDED else _outputs(model, images)
                done.rows[key], done.marks[key] = outputs, of_outputs(model, images, outputs, done.objective)
                for what, attack in self.trivial.items():
                    done.trivial[f"{name}/{what}"] = _outputs(model, attack(model, images, done.objective))
            for name, attack in self.names.items():
                self._attacked(name, attack, done)
        out: dict[str, Tensor] = {}
        for index, (key, outputs) in enumerate(done.rows.items()):
            out |= self._measured(f"{index:04d}", outputs, target)
            out |= {f"{index:04d}/mark/{name}": mark.cpu() for name, mark in done.marks.get(key, {}).items()}
        for name, outputs in done.trivial.items():
            out |= self._measured(f"trivial/{name}", outputs, target)
        return out | (self._pictures(done.shown, images) if number < SHOWN else {})

    def _measured(self, name: str, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        self.task.check(outputs, target)  # a defence that gives NaN must not score as class 0
        return {f"{name}/{m.name}": m.measure(outputs, target).double().cpu() for m in self.metrics}

    def _attacked(self, name: str, attack: Attack, done: "_Batch") -> None:
        """The rows of one attack: on the bare model, and on every defence as each view sees it."""
        key = UNDEFENDED, name, "-"
        bare, done.marks[key] = self._attack(attack, self.pipeline.predict, done, UNDEFENDED, "-")
        done.rows[key] = _outputs(self.pipeline.predict, bare)
        done.shown["attacked (bare model)"], done.shown["its output"] = bare, done.rows[key]
        handed: tuple[Tensor, Marks] | None = None  # to every defence whose attacker does not know it
        for label, defence in self.defences.items():
            for view_name, view in self.views.items():
                seen, key = view(defence), (label, name, view_name)
                owner = getattr(getattr(seen, "__self__", None), "model", None)
                if getattr(seen, "__func__", None) is DefendedPipeline.predict and owner is self.pipeline.model:
                    handed = handed or self._attack(attack, seen, done, label, view_name)
                    attacked, done.marks[key] = handed
                else:
                    attacked, done.marks[key] = self._attack(attack, seen, done, label, view_name)
                outputs = done.rows[key] = _outputs(defence, attacked)
                if defence is self.pipeline:
                    done.shown |= self._stages(attacked, outputs, view_name)

    def _attack(self, attack: Attack, seen: Model, done: "_Batch", label: str, view: str) -> tuple[Tensor, Marks]:
        """Attacked images, and what the attacker saw.

        What has nothing left to lose is dropped, if the attacker sees just what is scored, on clean and on attacked images:
        an image that is handed on to another model, or whose outcome is random, has to be as harmful as can be.
        """
        scored = self.models[label]
        if (label, view) not in done.exact:
            clean = done.rows[label, NO_ATTACK, "-"]
            done.exact[label, view] = not bool(of_outputs(seen, done.images, clean, done.objective)["unsteady"].any())
        if done.exact[label, view]:
            attacked = attack(seen, done.images, done.objective.judged())
            found = _outputs(seen, attacked)
            same = seen is scored or bool(torch.isclose(found, _outputs(scored, attacked), rtol=1e-3, atol=1e-4).all())
            done.exact[label, view] = same
        if not done.exact[label, view]:
            attacked = attack(seen, done.images, done.objective)
        marks = {} if attack.blind else of_gradients(seen, done.images, attacked, done.objective)
        return attacked, marks

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


def _outputs(model: Model, images: Tensor) -> Tensor:
    with torch.no_grad():
        return untouched(model, images)


def _defences(pipeline: DefendedPipeline, baselines: Sequence[Stage] | Mapping[str, Stage]) -> dict[str, DefendedPipeline]:
    """The pipeline, if it has stages, and each baseline, by name; ValueError where two have the same."""
    own = [pipeline] if len(pipeline.stages) else []
    if not isinstance(baselines, Mapping):
        defences = own + [DefendedPipeline(pipeline.model, [stage]) for stage in baselines]
        return dict(zip(_labels(defences), defences, strict=True))
    if taken := sorted({UNDEFENDED, *_labels(own)} & {*baselines}):
        raise ValueError(f"baselines: expected other names than {taken}: those are the pipeline and the bare model")
    named = {name: DefendedPipeline(pipeline.model, [stage]) for name, stage in baselines.items()}
    return dict(zip(_labels(own), own, strict=True)) | named


def _labels(pipelines: Sequence[DefendedPipeline]) -> list[str]:
    return _unique([" > ".join(type(part).__name__ for part in _parts(pipeline)) for pipeline in pipelines])


def _parts(pipeline: DefendedPipeline) -> list[object]:
    """What a defence consists of: its stages, and its vote if there is one."""
    return [*pipeline.stages, *([] if pipeline.vote is None else [pipeline.vote])]


def _unique(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} #{names[:k].count(name) + 1}" for k, name in enumerate(names)]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
