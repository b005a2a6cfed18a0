"""finetune: a defence trained in one line. The recipe is made for the pipeline, then `fit` runs it."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..attack import Attack
from ..attacks import NAA
from ..pipeline import DefendedPipeline
from ..recipe import Recipe
from ..threat import Linf
from .fit import fit
from .history import History
from .plan import AdamW, Plan
from .stream import Data
from .validation import Validation

Make = Callable[..., Recipe]


def finetune(
    pipeline: DefendedPipeline,
    data: Data,
    recipe: Recipe | Make,
    plan: Plan | None = None,
    held: Data | None = None,
    folder: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> tuple[DefendedPipeline, History]:
    """Train the pipeline in place by a recipe; the same pipeline, and the history, which prints and plots itself.

    `recipe`: a class such as `rr.recipes.PEARL`, which is handed the pipeline and the further `settings` (task=...,
    attack=...), any function that makes a recipe of them, or a finished recipe of this pipeline. Where a class wants an attack
    and gets none it is three steps of `NAA` at 4/255. `plan`: 1000 steps of 8 images at a learning rate of 1e-4, our choice.
    `held`: images set aside; the best weights are those with the highest first metric on them, under the recipe's attack.
    `folder`: see `fit`, which this calls and whose errors it raises. For what the trained defence is worth, ask `evaluate`,
    with a stronger attack.
    """
    made = recipe_for(pipeline, recipe, settings)
    inside = {id(weight) for weight in pipeline.parameters()}
    if not any(id(weight) in inside for weight in made.trained.parameters()):
        raise ValueError(
            f"recipe: expected one that trains this pipeline, got {type(made).__name__} on something else: hand over the class "
            "and its settings, or use fit"
        )
    plan = Plan(optimiser=AdamW(lr=1e-4)) if plan is None else plan
    validate = None if held is None else Validation(pipeline, held, _task(made), _attack(made), plan.batch)
    return pipeline, fit(made, data, plan, validate, folder, quiet=quiet)


def recipe_for(pipeline: DefendedPipeline, recipe: Recipe | Make, settings: Mapping[str, Any]) -> Recipe:
    """The recipe of this pipeline: a class is handed it as `pipeline` or `model`, whichever it asks for."""
    if isinstance(recipe, Recipe):
        if settings:
            raise TypeError(f"recipe: expected its class, to be made with {sorted(settings)}, got a finished {recipe!r}")
        return recipe
    if not isinstance(pipeline, DefendedPipeline):
        raise TypeError(
            f"pipeline: expected a DefendedPipeline, got {type(pipeline).__name__}: write "
            "rr.DefendedPipeline(model, [restorer])"
        )
    if not callable(recipe):
        raise TypeError(f"recipe: expected a recipe such as rr.recipes.PEARL, got {type(recipe).__name__}")
    made = recipe(**_filled(pipeline, recipe, settings)) if isinstance(recipe, type) else recipe(pipeline, **settings)
    if not isinstance(made, Recipe):
        raise TypeError(f"recipe: expected it to make a Recipe, got {type(made).__name__}")
    return made


def _filled(pipeline: DefendedPipeline, recipe: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with the pipeline and an attack where they are wanted."""
    wanted = inspect.signature(recipe).parameters
    if unknown := sorted(set(settings) - set(wanted)):
        raise TypeError(f"{recipe.__name__}: expected settings among {list(wanted)}, got {unknown}")
    given = dict(settings)
    for name in ("pipeline", "model"):
        if name in wanted:
            given.setdefault(name, pipeline)
            break
    if "attack" in wanted and wanted["attack"].default is inspect.Parameter.empty:
        given.setdefault("attack", NAA(Linf(4 / 255), steps=3, seed=None))
    if missing := [n for n, p in wanted.items() if p.default is inspect.Parameter.empty and n not in given]:
        example = "task=rr.tasks.Segmentation()" if missing[0] == "task" else f"{missing[0]}=..."
        raise TypeError(f"{recipe.__name__}: expected the settings {missing} too: finetune(..., {example})")
    return given


def _task(recipe: Recipe) -> Any:
    task = getattr(recipe, "task", None)
    if task is None:
        raise TypeError(
            f"held: expected a recipe with a task, got {type(recipe).__name__}: use fit with a rr.Validation of yours"
        )
    return task


def _attack(recipe: Recipe) -> Attack | None:
    """The recipe's attack if it does harm."""
    attack = getattr(recipe, "attack", None)
    return attack if isinstance(attack, Attack) and not attack.mirrors else None
