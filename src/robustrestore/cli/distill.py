"""The verb of black boxes: `distill` trains a surrogate on what a target answers."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import clear_errors, console


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command()(distill)


def distill(
    target: Annotated[str, typer.Argument(help="http(s)://..., street, derain or package.module:callable")],
    surrogate: Annotated[str, typer.Argument(help="what is trained: package.module:callable or a restorer")],
    data: Annotated[str, typer.Option(help="images to ask about: images:FOLDER, camvid:FOLDER or photographs")],
    task: Annotated[str, typer.Option(help="classification, segmentation or restoration")] = "classification",
    answers: Annotated[str, typer.Option(help="what the target tells: see robustrestore list tiers")] = "logits",
    noise: Annotated[str | None, typer.Option(help="that it will be smoothed with, e.g. gaussian(0.25)")] = None,
    encoding: Annotated[str, typer.Option(help="of images, for a URL: json, json-png, png or npy")] = "json",
    parse: Annotated[str, typer.Option(help="where answers stand in a response: a.path.*.in_json, or npy")] = "predictions",
    budget: Annotated[int | None, typer.Option(min=1, help="images sent at most, over all runs")] = None,
    size: Annotated[tuple[int, int] | None, typer.Option(help="height and width")] = None,
    steps: Annotated[int, typer.Option(min=1)] = 1000,
    batch: Annotated[int, typer.Option(min=1)] = 64,
    lr: Annotated[float, typer.Option(help="learning rate, of AdamW")] = 1e-3,
    out: Annotated[Path, typer.Option(help="for answers, checkpoints and weights; a killed run goes on there")] = Path(
        "runs/distill"
    ),
) -> None:
    """Train a surrogate on a target's answers, each paid for once; see the page on black boxes."""
    from .. import spec
    from ..data import Unlabelled
    from ..oracle import Queried
    from ..recipes import Distill
    from ..training.config import dataset
    from ..training.fit import fit
    from ..training.plan import AdamW, Plan

    with clear_errors():
        images, _ = dataset({"source": data} | ({"size": size} if size else {}), "train")
        asked = Queried(_target(target, encoding, parse), spec.part(answers, "tiers"), out / "answers.db", budget)
        known = surrogate in ("street", "derain") or ":" in surrogate
        student = spec.model(surrogate) if known else spec.part(surrogate, "restorers")
        law = None if noise is None else spec.part(noise, "noises")
        recipe = Distill(asked, student, spec.part(task, "tasks"), law)
        history = fit(recipe, Unlabelled(images), Plan(steps, batch, AdamW(lr)), folder=out)
        _write(student, out)
        console.print(str(history), markup=False, highlight=False)
        console.print(f"{asked.answered} images answered, {asked.sent} sent. Wrote {out / 'surrogate.safetensors'}: smooth and "
                      "certify it; a certificate says nothing of the target.", highlight=False)  # fmt: skip


def _target(text: str, encoding: str, parse: str) -> Any:
    from .. import oracle, spec

    if not text.startswith(("http://", "https://")):
        return spec.model(text)
    kinds = {"json": oracle.JSONValues, "json-png": oracle.JSONPngs, "png": oracle.PNG, "npy": oracle.NPY}
    if encoding not in kinds:
        raise ValueError(f"--encoding {encoding}: expected one of {', '.join(kinds)}")
    return oracle.Endpoint(text, kinds[encoding](), oracle.npy_answers if parse == "npy" else parse)


def _write(student: Any, out: Path) -> None:
    from safetensors.torch import save_file

    from ..files import write_atomically

    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in student.state_dict().items()}
    write_atomically(out / "surrogate.safetensors", lambda part: save_file(state, part))
