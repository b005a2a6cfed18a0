"""The verbs of training: `train` runs a configuration, `finetune` writes one from options."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import clear_errors, console

Out = Annotated[Path | None, typer.Option(help="for checkpoints, weights and curves; a killed run goes on there")]
Tracker = Annotated[list[str] | None, typer.Option(help="a tracker that accelerate knows, e.g. tensorboard; repeatable")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(train)
    app.command()(finetune)


def train(
    recipe: Annotated[str | None, typer.Argument(help="see: robustrestore list recipes; default that of the file")] = None,
    config: Annotated[Path | None, typer.Option(help="a TOML file, as those in examples/configs")] = None,
    change: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, e.g. plan.steps=10; repeatable")] = None,
    out: Out = None,
    tracker: Tracker = None,
) -> None:
    """Train what a configuration says; under accelerate launch or torchrun in several processes."""
    from ..training import config as library

    with clear_errors():
        if config is None:
            raise ValueError("train: expected --config FILE: see examples/configs, or robustrestore finetune for options alone")
        _run(library.read(config, change or []), recipe, out, tracker or [])


def finetune(
    recipe: Annotated[str, typer.Argument(help="see: robustrestore list recipes")],
    data: Annotated[str, typer.Option(help="camvid:FOLDER, pairs:DEGRADED,CLEAN[,LABELS], images:FOLDER, photographs")],
    model: Annotated[str, typer.Option(help="street, derain, a restorer or package.module:callable")] = "street",
    stage: Annotated[list[str] | None, typer.Option(help="a stage, in order; repeatable")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="of the recipe: KEY=VALUE, e.g. weight=0.1; repeatable")] = None,
    attack: Annotated[str | None, typer.Option(help="to learn from; default 'naa(linf(4/255), steps=3, seed=None)'")] = None,
    degrade: Annotated[str | None, typer.Option(help="spoil the images first, e.g. rain")] = None,
    size: Annotated[tuple[int, int] | None, typer.Option(help="height and width")] = None,
    steps: Annotated[int, typer.Option(min=1)] = 1000,
    batch: Annotated[int, typer.Option(min=1)] = 8,
    lr: Annotated[float, typer.Option(help="learning rate, of AdamW")] = 1e-4,
    out: Out = None,
) -> None:
    """Train a defence by a recipe, told by options: the bundled models, your data."""
    from ..training import config as library

    with clear_errors():
        table: dict[str, Any] = {"source": data} | ({"degrade": degrade} if degrade else {}) | ({"size": size} if size else {})
        plan = {"steps": steps, "batch": batch, "optimiser": f"adamw(lr={lr})"}
        stages = stage or ["unet.derain"]
        own = {} if attack is None else {"attack": attack}
        tree: dict[str, Any] = {"model": model, "stages": stages, "data": table, "plan": plan, "recipe": own}
        library.change(tree, [f"recipe.{one}" for one in setting or []])
        _run(tree, recipe, out, [])


def _run(tree: dict[str, Any], recipe: str | None, out: Path | None, trackers: list[str]) -> None:
    from ..training import config as library

    ready = library.configured(tree, recipe)
    folder = out or Path(tree.get("out", f"runs/{ready.recipe.name}"))
    history = ready.run(folder, trackers)
    if int(os.environ.get("RANK", 0)):  # one of several processes tells
        return
    console.print(str(history), markup=False, highlight=False)
    console.print(
        f"Wrote {folder / 'trained.safetensors'}, {folder / 'pipeline'} and {folder / 'history.svg'}", highlight=False
    )
