"""The verbs of certificates: `certify` makes a report of them, `recheck` derives one again from its counts."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import chosen_device, clear_errors, console, progress_bar

Model = Annotated[str | None, typer.Option(help="street, derain, timm:NAME, torchvision:NAME or package.module:callable")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(certify)
    app.command()(recheck)


def certify(
    data: Annotated[str, typer.Argument(help="camvid:FOLDER, classes:FOLDER, pairs:DEGRADED,CLEAN or photographs")],
    model: Model = None,
    stage: Annotated[list[str] | None, typer.Option(help="a stage in front, e.g. 'denoise(sigma=0.25)'; repeatable")] = None,
    noise: Annotated[str, typer.Option(help="see: robustrestore list noises")] = "gaussian(0.25)",
    n0: Annotated[int | None, typer.Option(min=1, help="of classes and label maps: draws that choose the class, 100")] = None,
    n: Annotated[int, typer.Option("--n", "--draws", min=2, help="fresh draws that test it; torchrun takes --draws")] = 1000,
    alpha: Annotated[float, typer.Option(help="probability of a wrong certificate, each image by itself")] = 0.001,
    tau: Annotated[float | None, typer.Option(help="of label maps: least probability of a certified class, 0.75")] = None,
    eps: Annotated[list[float] | None, typer.Option(help="of restorers: L2 sizes, 0.05; repeatable")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="that many images, evenly spread")] = None,
    size: Annotated[tuple[int, int] | None, typer.Option(help="height and width")] = None,
    degrade: Annotated[str | None, typer.Option(help="spoil the images first, e.g. rain")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path, typer.Option(help="for the report; a killed run goes on there")] = Path("runs/certify"),
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; by default a GPU where there is one")] = "auto",
) -> None:
    """Certify a smoothed model: classes, label maps or restored images, by the data; under torchrun in several processes."""
    from .. import certify as library
    from .. import spec
    from ..pipeline import DefendedPipeline

    with clear_errors():
        library.bounds.check_alpha(alpha)
        rank, _ = library.spread.place()  # before the device: each process has its own
        where = chosen_device(device)
        dataset, task = spec.data(data, "val", size)
        _check_options(task, {"--eps": eps, "--n0": n0, "--tau": tau})
        stages = [spec.stage(text).to(where) for text in stage or []]
        name = spec.model_name(model, task)
        pipeline = DefendedPipeline(spec.model(name), stages).to(where).eval()
        spoil = None if degrade is None else spec.part(degrade, "degradations")
        batches, law = spec.Batches(dataset, limit, 1, spoil, where), spec.part(noise, "noises")
        with progress_bar() as bar:
            shown = bar.add_task("images", total=len(batches))
            told: dict[str, Any] = {"alpha": alpha, "seed": seed, "folder": out / "progress"}
            told["progress"] = lambda done, total: bar.update(shown, completed=done, total=total)
            if task == "classification":
                report = library.measure_classifier(library.SmoothedClassifier(pipeline, law), batches, (n0 or 100, n), **told)
            elif task == "segmentation":
                smoothed = library.SmoothedSegmenter(pipeline, law, 0.75 if tau is None else tau)
                report = library.measure_segmenter(smoothed, batches, (n0 or 100, n), **told)
            else:
                report = library.measure_restorer(library.SmoothedRestorer(pipeline, law), batches, eps or [0.05], n, **told)
        if rank:  # one of several processes tells
            return
        report.about.update({"data": data, "model name": name, "stages": [repr(s) for s in stages], "degradation": repr(spoil)})
        report.save(out)
        console.print(report.markdown(), markup=False, highlight=False)
        console.print(f"Wrote {out / 'certified.json'} and {out / 'certified.md'}", highlight=False)


def _check_options(task: str, given: dict[str, Any]) -> None:
    """ValueError for options that say nothing in this task."""
    idle = {"classification": ("--eps", "--tau"), "segmentation": ("--eps",), "restoration": ("--n0", "--tau")}[task]
    if wrong := [name for name in idle if given[name] is not None]:
        raise ValueError(f"{', '.join(wrong)}: expected options of {task}, and that has none of this name: leave it out")


def recheck(report: Annotated[Path, typer.Argument(help="certified.json, or the folder that holds it")]) -> None:
    """Derive every certificate of a report again from its counts, and name what does not follow."""
    from .. import certify as library

    with clear_errors():
        found = library.recheck(report)
    for text in found:
        console.print(text, style="red", markup=False, highlight=False)
    console.print("Every certificate follows from its counts." if not found else f"{len(found)} do not follow.")
    if found:
        raise typer.Exit(1)
