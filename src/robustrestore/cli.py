"""The `robustrestore` command: every verb is one call of the library."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console, errors = Console(), Console(stderr=True)
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N; by default a GPU where there is one")]


@contextmanager
def _said() -> Iterator[None]:
    """Errors of use as one clear line and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, LookupError, OSError, ImportError, ArithmeticError, RuntimeError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        errors.print(f"error: {text}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=errors)


def _track(items: Any, what: str) -> Iterator[Any]:
    with _bar() as bar:
        yield from bar.track(items, description=what)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: expected a CUDA device, found none: use --device cpu")
    return str(torch.device(name)) if name == "cpu" or name.startswith("cuda") else _unknown(name)


def _unknown(name: str) -> str:
    raise ValueError(f"--device {name}: expected auto, cpu, cuda or cuda:N")


def _show(report: Any) -> None:
    """One table an attack, so that it fits a terminal of 80 columns."""
    head, body = report.table()
    for attack in dict.fromkeys(cells[1] for cells in body):
        title = {"none": "No attack", "all": "Worst of all attacks and views, per image"}.get(attack, attack)
        table = Table(title=title, title_justify="left", title_style="bold")
        for k, name in enumerate(head):
            if k != 1:
                table.add_column(name, justify="right" if k >= 3 else "left", overflow="fold")
        for cells in body:
            if cells[1] == attack:
                table.add_row(cells[0], *cells[2:])
        console.print(table)
    for verdict in report.verdicts:
        console.print(f"- {verdict}", markup=False, highlight=False)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="where report.html and overview.png go")] = Path("runs/demo"),
    data: Annotated[str | None, typer.Option(help="camvid:FOLDER tells the segmentation story too")] = None,
    device: Device = "auto",
) -> None:
    """Attack a model on real photographs, defend it, and show what the defence is worth."""
    from . import demo as story

    with _said():
        name, _, place = (data or "").partition(":")
        if data is not None and (name != "camvid" or not place):
            raise ValueError(f"--data {data}: expected camvid:FOLDER")
        where = _device(device)
        console.print("Restoration: rain on four photographs, PGD-10 at 4/255 against the derain network.")
        _show(story.restoration(out, where, _track))
        console.print(f"Wrote {out / 'report.html'} and {out / 'overview.png'}", highlight=False)
        if data is None:
            console.print("No street scenes here: --data camvid:FOLDER tells the segmentation story too.")
            return
        console.print("Segmentation: rain on CamVid frames, PGD-10 at 4/255 against the bundled segmenter.")
        _show(story.segmentation(Path(place), out / "segmentation", where, _track))
        console.print(f"Wrote {out / 'segmentation' / 'report.html'}", highlight=False)


@app.command()
def purify(
    source: Annotated[Path, typer.Argument(help="folder of images, searched to the bottom")],
    target: Annotated[Path, typer.Argument(help="folder for the results, as PNG")],
    stage: Annotated[list[str] | None, typer.Option(help="e.g. 'diffusion(sigma=0.05)', unet.derain; repeatable")] = None,
    device: Device = "auto",
) -> None:
    """Send a folder of images through a defence; goes on where a killed run stopped."""
    from .purify_folder import purify_folder
    from .spec import part

    with _said():
        where = _device(device)
        texts = stage or ["diffusion(tile=256)"]
        stages = [part(text, _kind(text)).to(where).eval() for text in texts]
        with _bar() as bar:
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


def _kind(text: str) -> str:
    """Whether a stage is a purifier or a restorer, by its name."""
    from . import registry

    name = text.strip().partition("(")[0].partition(".")[0].lower()
    restorers = {label for e in registry.entries("restorers") for label in (e.name, e.target.rpartition(":")[2].lower())}
    return "restorers" if name in restorers else "purifiers"


@app.command()
def evaluate(
    data: Annotated[str, typer.Option(help="camvid:FOLDER, pairs:DEGRADED,CLEAN or photographs")],
    model: Annotated[str | None, typer.Option(help="street, derain or package.module:callable")] = None,
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
    from . import spec
    from .evaluate import evaluate as measure
    from .pipeline import DefendedPipeline

    with _said():
        where = _device(device)
        dataset, task = spec.data(data, split, size)
        name = model or ("street" if task == "segmentation" else "derain")
        stages = [spec.part(text, _kind(text)) for text in _chosen(stage, ["diffusion"])]
        beside = [spec.part(text, _kind(text)).to(where) for text in _chosen(baseline, ["blur", "jpeg"])]
        attacks = [spec.part(text, "attacks") for text in (attack or ["pgd(linf(4/255), steps=20)"])]
        pipeline = DefendedPipeline(spec.model(name), stages).to(where).eval()
        spoil = None if degrade is None else spec.part(degrade, "degradations")
        batches = _Batches(dataset, limit, batch, spoil, where)
        report = measure(
            pipeline,
            _track(batches, "batches"),
            spec.part(task, "tasks"),
            attacks,
            baselines=beside,
            seed=seed,
            folder=out / "progress",
        )
        report.about |= {"data": data, "split": split, "model": name, "degradation": repr(spoil), "batch": batch}
        report.save(out)
        _show(report)
        console.print(f"Wrote {out / 'report.html'} and {out / 'report.json'}", highlight=False)


def _chosen(given: list[str] | None, default: list[str]) -> list[str]:
    """What was asked for; the word none asks for nothing."""
    return default if given is None else [text for text in given if text != "none"]


class _Batches:
    """(images, target) batches of a data set, evenly spread where limited, spoiled by key, on a device."""

    def __init__(self, dataset: Any, limit: int | None, size: int, spoil: Any, device: str) -> None:
        count = len(dataset)
        kept = count if limit is None else min(limit, count)
        self.dataset, self.spoil, self.device = dataset, spoil, device
        picks = [k * count // kept for k in range(kept)]
        self.groups = [picks[k : k + size] for k in range(0, kept, size)]

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Any]:
        import torch

        for group in self.groups:
            images, targets = zip(*(self.dataset[k] for k in group), strict=True)
            if len({image.shape for image in images}) > 1:
                sizes = sorted({f"{i.shape[-2]} x {i.shape[-1]}" for i in images})
                raise ValueError(f"--data: expected images of one size in a batch, got {sizes}: use --size or --batch 1")
            batch = torch.stack(images)
            spoiled = batch if self.spoil is None else self.spoil(batch, group)
            yield spoiled.to(self.device), torch.stack(targets).to(self.device)


@app.command(name="list")
def list_parts() -> None:
    """Every registered part, its kind, and the package that it comes from."""
    from . import registry

    table = Table("kind", "name", "package")
    table.add_column("class", overflow="fold")
    for entry in registry.entries():
        table.add_row(entry.kind, entry.name, entry.package, entry.target)
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
