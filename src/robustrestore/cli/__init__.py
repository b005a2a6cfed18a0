"""The `robustrestore` command: every verb is one call of the library."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..terminal import chosen_device, clear_errors, console, errors, progress_bar, show, track
from . import certify, distill, train

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
train.register(app)
certify.register(app)
distill.register(app)
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N; by default a GPU where there is one")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="where report.html and overview.png go")] = Path("runs/demo"),
    data: Annotated[str | None, typer.Option(help="camvid:FOLDER tells the segmentation story too")] = None,
    device: Device = "auto",
) -> None:
    """Attack a model on real photographs, defend it, and show what the defence is worth."""
    from .. import demo as story

    with clear_errors():
        name, _, place = (data or "").partition(":")
        if data is not None and (name != "camvid" or not place):
            raise ValueError(f"--data {data}: expected camvid:FOLDER")
        where = chosen_device(device)
        console.print("Restoration: rain on four photographs, PGD-10 at 4/255 against the derain network.")
        show(story.restoration(out, where, track))
        console.print(f"Wrote {out / 'report.html'} and {out / 'overview.png'}", highlight=False)
        if data is None:
            console.print("No street scenes here: --data camvid:FOLDER tells the segmentation story too.")
            return
        console.print("Segmentation: rain on CamVid frames, PGD-10 at 4/255 against the bundled segmenter.")
        show(story.segmentation(Path(place), out / "segmentation", where, track))
        console.print(f"Wrote {out / 'segmentation' / 'report.html'}", highlight=False)


@app.command()
def purify(
    source: Annotated[Path, typer.Argument(help="folder of images, searched to the bottom")],
    target: Annotated[Path, typer.Argument(help="folder for the results, as PNG")],
    stage: Annotated[list[str] | None, typer.Option(help="e.g. 'diffusion(sigma=0.05)', unet.derain; repeatable")] = None,
    device: Device = "auto",
) -> None:
    """Send a folder of images through a defence; goes on where a killed run stopped."""
    from ..purify_folder import purify_folder
    from ..spec import stage as stage_of

    with clear_errors():
        where = chosen_device(device)
        texts = stage or ["diffusion(tile=256)"]
        stages = [stage_of(text).to(where).eval() for text in texts]
        with progress_bar() as bar:
            task = bar.add_task("images", total=None)
            outcome = purify_folder(
                source, target, stages, where, lambda done, total: bar.update(task, completed=done, total=total)
            )
    for file, reason in outcome.failed:
        errors.print(f"skipped {file}: {reason}", style="red", markup=False, highlight=False)
    console.print(
        f"{len(outcome.written)} written, {len(outcome.skipped)} there already, {len(outcome.failed)} failed",
        highlight=False,
    )
    if outcome.failed:
        raise typer.Exit(1)


@app.command()
def evaluate(
    data: Annotated[str, typer.Option(help="camvid:FOLDER, classes:FOLDER, pairs:DEGRADED,CLEAN or photographs")],
    model: certify.Model = None,
    stage: Annotated[list[str] | None, typer.Option(help="a stage, in order, or none; repeatable; default diffusion")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="e.g. 'pgd(linf(4/255), steps=20)'; repeatable")] = None,
    baseline: Annotated[list[str] | None, typer.Option(help="a stage to beat, or none; default blur, jpeg")] = None,
    degrade: Annotated[str | None, typer.Option(help="spoil the images first, e.g. rain")] = None,
    split: Annotated[str, typer.Option(help="of CamVid: train, val or test")] = "val",
    size: Annotated[tuple[int, int] | None, typer.Option(help="height and width")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="that many images, evenly spread")] = None,
    batch: Annotated[int, typer.Option(min=1)] = 4,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path, typer.Option(help="for the report and the journal of a resumable run")] = Path("runs/evaluate"),
    device: Device = "auto",
) -> None:
    """Measure a defence: undefended, oblivious, BPDA and adaptive rows, with baselines and intervals."""
    from .. import spec
    from ..evaluate import evaluate as measure
    from ..pipeline import DefendedPipeline

    with clear_errors():
        where = chosen_device(device)
        dataset, task = spec.data(data, split, size)
        name = spec.model_name(model, task)
        stages = [spec.stage(text) for text in _chosen(stage, ["diffusion"])]
        beside = [spec.stage(text).to(where) for text in _chosen(baseline, ["blur", "jpeg"])]
        attacks = [spec.part(text, "attacks") for text in (attack or ["pgd(linf(4/255), steps=20)"])]
        pipeline = DefendedPipeline(spec.model(name), stages).to(where).eval()
        spoil = None if degrade is None else spec.part(degrade, "degradations")
        batches = spec.Batches(dataset, limit, batch, spoil, where)
        report = measure(
            pipeline,
            track(batches, "batches"),
            spec.part(task, "tasks"),
            attacks,
            baselines=beside,
            seed=seed,
            folder=out / "progress",
        )
        report.about |= {"data": data, "split": split, "model": name, "degradation": repr(spoil), "batch": batch}
        report.save(out)
        show(report)
        console.print(f"Wrote {out / 'report.html'} and {out / 'report.json'}", highlight=False)


def _chosen(given: list[str] | None, default: list[str]) -> list[str]:
    """What was asked for; the word none asks for nothing."""
    return default if given is None else [text for text in given if text != "none"]


@app.command()
def attack(
    data: Annotated[str, typer.Argument(help="camvid:FOLDER, classes:FOLDER, pairs:DEGRADED,CLEAN or photographs")],
    out: Annotated[Path, typer.Option(help="folder for the attacked images and their manifest; a killed run goes on there")],
    model: certify.Model = None,
    stage: Annotated[list[str] | None, typer.Option(help="a stage of the attacked defence, in order; repeatable")] = None,
    view: Annotated[
        str, typer.Option(help="what the attacker knows: oblivious (the bare model), bpda, adaptive")
    ] = "oblivious",
    attack: Annotated[str, typer.Option(help="see: robustrestore list attacks")] = "pgd(linf(4/255), steps=20)",
    degrade: Annotated[str | None, typer.Option(help="spoil the images first, e.g. rain")] = None,
    split: Annotated[str, typer.Option(help="of CamVid: train, val or test")] = "val",
    size: Annotated[tuple[int, int] | None, typer.Option(help="height and width")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="that many images, evenly spread")] = None,
    batch: Annotated[int, typer.Option(min=1)] = 4,
    seed: Annotated[int, typer.Option()] = 0,
    eight_bit: Annotated[bool, typer.Option("--eight-bit", help="save as 8-bit files would; says what that undoes")] = False,
    device: Device = "auto",
) -> None:
    """Attack images once and keep them, so that several defences can be scored on the very same ones."""
    import torch

    from .. import spec
    from ..adversarial_set import craft
    from ..evaluate import VIEWS
    from ..pipeline import DefendedPipeline

    with clear_errors():
        where = chosen_device(device)
        dataset, task = spec.data(data, split, size)
        name = spec.model_name(model, task)
        stages = [spec.stage(text) for text in _chosen(stage, [])]
        if view not in VIEWS or (view != "oblivious" and not stages):
            raise ValueError(f"--view {view}: expected one of {', '.join(VIEWS)}; bpda and adaptive ones need a --stage")
        pipeline = DefendedPipeline(spec.model(name), stages).to(where).eval()
        spoil = None if degrade is None else spec.part(degrade, "degradations")
        made = craft(
            VIEWS[view](pipeline),
            track(spec.Batches(dataset, limit, batch, spoil, where), "batches"),
            spec.part(task, "tasks"),
            spec.part(attack, "attacks"),
            out,
            seed,
            torch.uint8 if eight_bit else None,
            {"data": data, "split": split, "model": name, "view": view, "degradation": repr(spoil)},
        )
        counts = made.manifest["counts"]
        reached = ", ".join(f"{counts['reached'][name]} {name}" for name in ("clean", "attacked", "saved"))
        console.print(f"{made.attack} against {made.against}", markup=False, highlight=False)
        console.print(f"Goal reached on {reached}, of {counts['images']} images.", highlight=False)
        if eight_bit:
            lost = f"{counts['lost by saving']} of {counts['reached']['attacked']}"
            console.print(f"Saving with 8 bits undid {lost} successes.", highlight=False)
        console.print(f"Wrote {made.folder / 'manifest.json'} and {len(made)} batches", highlight=False)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="what robustrestore attack wrote")],
    stage: Annotated[list[str] | None, typer.Option(help="a stage, in order, or none; repeatable; default diffusion")] = None,
    baseline: Annotated[list[str] | None, typer.Option(help="a stage to beat, or none; default blur, jpeg")] = None,
    model: Annotated[str | None, typer.Option(help="by default the one that was attacked")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path, typer.Option(help="for the report")] = Path("runs/score"),
    device: Device = "auto",
) -> None:
    """Measure a defence on images that were attacked before, and say whom they were made against."""
    from .. import spec
    from ..adversarial_set import AdversarialSet
    from ..pipeline import DefendedPipeline
    from ..score import score as measure

    with clear_errors():
        where, attacked = chosen_device(device), AdversarialSet(folder)
        name = model or attacked.manifest["notes"].get("model")
        if name is None:
            raise ValueError(f"{folder}: expected a set that names its model, this one does not: say --model")
        stages = [spec.stage(text) for text in _chosen(stage, ["diffusion"])]
        beside = [spec.stage(text).to(where) for text in _chosen(baseline, ["blur", "jpeg"])]
        pipeline = DefendedPipeline(spec.model(name), stages).to(where).eval()
        with progress_bar() as bar:
            task = bar.add_task("batches", total=len(attacked))
            report = measure(
                pipeline, attacked, baselines=beside, seed=seed, progress=lambda done, _: bar.update(task, completed=done)
            )
        report.save(out, "What the defence is worth on images that were attacked before")
        show(report)
        console.print(f"Wrote {out / 'report.html'} and {out / 'report.json'}", highlight=False)


@app.command(name="list")
def list_parts(kind: Annotated[str | None, typer.Argument(help="one kind only, such as attacks")] = None) -> None:
    """Every registered part, its kind, and the package that it comes from; of one kind, also what it is and fits."""
    from .. import registry

    with clear_errors():
        if kind is not None:
            return _list_kind(kind)
        table = Table("kind", "name", "package")
        table.add_column("class", overflow="fold")
        for entry in registry.entries():
            table.add_row(entry.kind, entry.name, entry.package, entry.target)
        console.print(table)


def _list_kind(kind: str) -> None:
    from .. import registry
    from ..attack import TASKS

    if kind not in (kinds := sorted({entry.kind for entry in registry.entries()})):
        raise ValueError(f"{kind}: expected a kind of part among {', '.join(kinds)}")
    table = Table("name", *(["tasks"] if kind == "attacks" else []), "package")
    table.add_column("what", overflow="fold")
    for entry in registry.entries(kind):
        try:
            cls: Any = registry.find(kind, entry.name)
            what = " ".join((cls.__doc__ or "").split("\n\n")[0].split()).partition(". ")[0]
            fits = [", ".join(TASKS[answer] for answer in cls.answers)] if kind == "attacks" else []
        except LookupError as error:  # a plug-in that does not import hides no other part
            what, fits = str(error), ["?"] if kind == "attacks" else []
        table.add_row(entry.name, *fits, entry.package, escape(what))
    console.print(table)


@app.command()
def info() -> None:
    """Versions and devices, for bug reports."""
    import torch

    table = Table("what", "value")
    for name in (
        "robustrestore",
        "torch",
        "torchvision",
        "diffusers",
        "torchmetrics",
        "numpy",
        "segmentation-models-pytorch",
    ):
        table.add_row(name, _installed(name))
    table.add_row("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    cuda = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    table.add_row("devices", ", ".join(["cpu", *cuda]))
    table.add_row("CPU threads", str(torch.get_num_threads()))
    console.print(table)


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def main() -> None:
    """The entry point."""
    app()


if __name__ == "__main__":
    main()
