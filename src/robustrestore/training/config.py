"""A training as a TOML file: model, stages, data, recipe and plan, each part written as a line of text."""

import inspect
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from torch import nn
from torch.utils.data import Subset

from .. import spec
from ..component import Component
from ..files import write_text
from ..modes import seeded
from ..pipeline import DefendedPipeline
from ..recipe import Recipe
from ..task import Task
from ..weights import load_weights
from .checkpoints import save_state
from .finetune import recipe_for
from .fit import fit
from .history import History
from .plan import Plan
from .validation import Validation

KEYS = {"task", "model", "stages", "weights", "data", "recipe", "plan", "validate", "out"}
DATA = {"source", "split", "size", "degrade", "crop", "flip", "limit"}
Tree = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """What a configuration describes, made."""

    pipeline: DefendedPipeline
    task: Task
    data: Any
    recipe: Recipe
    plan: Plan
    validation: Validation | None

    def run(self, out: Path, trackers: Sequence[str] = (), quiet: bool = False) -> History:
        """Train; into `out` go what `fit` writes, the trained part, the pipeline, and the curves."""
        history = fit(self.recipe, self.data, self.plan, self.validation, out, trackers, quiet)
        from accelerate import PartialState

        if PartialState().is_main_process:
            save_state(out / "trained.safetensors", self.recipe.trained.state_dict())
            self.pipeline.save_pretrained(out / "pipeline")
            write_text(out / "history.md", history.markdown())
            write_text(out / "history.svg", history.plot())
        return history


def read(file: Path, changes: Sequence[str] = ()) -> Tree:
    """The file's tree, with `changes` such as "plan.steps=10" made to it; ValueError for what is no TOML or has odd keys."""
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: expected a TOML file: {error}") from error
    change(tree, changes)
    _check(tree, KEYS, str(file))
    return tree


def change(tree: Tree, changes: Sequence[str]) -> None:
    """Make changes such as "plan.steps=10" to a tree, in place; what is no TOML value is a text."""
    for one in changes:
        path, equals, text = one.partition("=")
        if not equals:
            raise ValueError(f"{one}: expected KEY=VALUE such as plan.steps=10")
        *above, last = path.strip().split(".")
        place = tree
        for name in above:
            place = place.setdefault(name, {})
        place[last] = _toml(text.strip())


def configured(tree: Tree, recipe: str | None = None) -> Training:
    """The training that a tree describes. `recipe`: its name; by default `name` in the tree's recipe table."""
    _check(tree, KEYS, "configuration")
    plan = _plan(tree.get("plan", {}))
    data, guess = dataset(tree.get("data", {}), "train")
    task: Task = spec.part(tree.get("task", guess), "tasks")
    with seeded(plan.seed):  # initial weights
        pipeline = DefendedPipeline(_model(tree.get("model")), [spec.stage(text) for text in tree.get("stages", [])])
        for path, file in tree.get("weights", {}).items():
            load_weights(pipeline.get_submodule(path) if path else pipeline, file)
        made = _recipe(dict(tree.get("recipe", {})), recipe, pipeline, task)
    _check_fields(tree.get("data", {}), made)
    return Training(pipeline, task, data, made, plan, _validation(tree.get("validate"), tree, pipeline, task, plan))


def dataset(table: Mapping[str, Any], split: str) -> tuple[Any, str]:
    """The data set of a `data` table, and the name of its task.

    `source`: camvid:FOLDER, pairs:DEGRADED,CLEAN[,LABELS], images:FOLDER, scenes:FOLDER or photographs. `degrade`: a
    degradation or a list of them, put on clean images as they are read; `crop`: [height, width] of random crops, `flip` mirrors
    half of them.
    """
    from ..data import Crops, Degraded

    _check(table, DATA, "data")
    size = None if table.get("size") is None else (int(table["size"][0]), int(table["size"][1]))
    found, task = _source(str(table.get("source", "")), table.get("split", split), size)
    if (limit := table.get("limit")) is not None:
        found = Subset(found, range(min(int(limit), len(found))))
    texts = table.get("degrade", [])
    if texts:
        found = Degraded(found, [spec.part(t, "degradations") for t in ([texts] if isinstance(texts, str) else texts)])
    if (crop := table.get("crop")) is not None:
        found = Crops(found, (int(crop[0]), int(crop[1])), bool(table.get("flip", False)))
    return found, task


def _source(text: str, split: str, size: tuple[int, int] | None) -> tuple[Any, str]:
    from ..assets.bundled import STREET_SIZE
    from ..data import CamVid, ImageFolder, PairedFolder, Scenes

    name, _, place = text.partition(":")
    if name == "camvid" and place:
        return CamVid(Path(place), split, size or STREET_SIZE), "segmentation"  # type: ignore[arg-type]
    if name == "pairs" and place.count(",") in (1, 2):
        degraded, clean, *labels = place.split(",")
        found = PairedFolder(degraded, clean, labels[0] if labels else None, size)
        return found, "segmentation" if labels else "restoration"
    if name in ("images", "scenes") and place:
        images = ImageFolder(Path(place), size)
        return images if name == "images" else Scenes(images), "restoration"
    if text == "photographs":
        return [image for image, _ in spec.Photographs()], "restoration"  # type: ignore[attr-defined]
    raise ValueError(
        f"data source {text!r}: expected camvid:FOLDER, pairs:DEGRADED,CLEAN[,LABELS], images:FOLDER, scenes:FOLDER or "
        "photographs"
    )


def _model(text: str | None) -> nn.Module:
    """As in `spec.model`, or a restorer."""
    if text is None:
        raise ValueError('model: expected one, such as model = "street" or a restorer like "nafnet(width=16)", got none')
    if ":" in text or text in ("street", "derain"):
        return spec.model(text)
    made: nn.Module = spec.part(text, "restorers")
    return made


def _recipe(table: Tree, name: str | None, pipeline: DefendedPipeline, task: Task) -> Recipe:
    """The recipe with its settings; a text is a part, and may name the pipeline, the model, the task."""
    named = table.pop("name", None)
    if (text := name or named) is None:
        raise ValueError(f"recipe: expected a name among {Recipe.names()}, got none")
    cls: Any = Recipe.named(text)
    wanted, hints = inspect.signature(cls).parameters, get_type_hints(cls.__init__)
    names = {"pipeline": pipeline, "model": pipeline.model, "task": task}
    settings = {}
    for key, value in table.items():
        hint = hints.get(key)
        settings[key] = spec.value(value, _kind(hint), names) if isinstance(value, str) and hint is not str else value
    if "task" in wanted:
        settings.setdefault("task", task)
    return recipe_for(pipeline, cls, settings)


def _kind(hint: Any) -> str:
    """The kind of part that a parameter takes."""
    for cls in (hint, *get_args(hint)):
        if isinstance(cls, type) and issubclass(cls, Component):
            return cls.kind or "purifiers"
    return "recipes"


def _plan(table: Mapping[str, Any]) -> Plan:
    given = dict(table)
    if isinstance(given.get("optimiser"), str):
        given["optimiser"] = spec.part(given["optimiser"], "optimisers")
    unlimited = {key: None for key in ("average", "clip") if given.get(key) == "none"}
    try:
        return Plan(**{**given, **unlimited})
    except TypeError as error:
        raise ValueError(f"plan: {error}") from error


def _validation(
    table: Mapping[str, Any] | None, tree: Tree, pipeline: DefendedPipeline, task: Task, plan: Plan
) -> Validation | None:
    """On a table like `data`'s, whose missing entries are those of the training data, but for crops."""
    if table is None:
        return None
    own = {key: value for key, value in table.items() if key != "attack"}
    kept = {key: tree.get("data", {})[key] for key in ("source", "size", "degrade") if key in tree.get("data", {})}
    data, _ = dataset({**kept, **own}, "val")
    attack = None if table.get("attack") is None else spec.part(table["attack"], "attacks")
    return Validation(pipeline, data, task, attack, plan.batch)


def _check(table: Mapping[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(set(table) - known):
        raise ValueError(f"{what}: expected keys among {sorted(known)}, got {unknown}")


def _check_fields(table: Mapping[str, Any], recipe: Recipe) -> None:
    """Raise where the data, spoiled by nothing, lacks what the recipe needs, and say so in words of a configuration."""
    source = str(table.get("source", ""))
    if table.get("degrade") or source.startswith("pairs:"):
        return
    lacking = ("clean",) if source.startswith("camvid:") else ("target", "clean")
    if missing := [name for name in lacking if name in recipe.needs]:
        raise ValueError(
            f"data: {source} gives images that nothing has spoiled, missing {', '.join(missing)} for {type(recipe).__name__}: "
            'expected --degrade rain, in a file degrade = "rain" under [data], or the source pairs:DEGRADED,CLEAN[,LABELS]'
        )


def _toml(text: str) -> Any:
    """A TOML value; what is none is a text."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
