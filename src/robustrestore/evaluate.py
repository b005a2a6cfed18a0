"""evaluate: what a defence is worth, against attackers who do not know it and attackers who do."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from .attack import Attack
from .files import digest
from .identity import of_attributes
from .images import check_images
from .journal import Journal
from .measurement import Measurement, View
from .pipeline import DefendedPipeline
from .report import Report
from .stage import Stage
from .summary import summarise
from .task import Task

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
    baselines: Sequence[Stage] | Mapping[str, Stage] = (),
    seed: int = 0,
    folder: str | Path | None = None,
) -> Report:
    """Attack the bare model and, through every view, the defended one; score all of it.

    `batches` yields (images [N, C, H, W] in [0, 1], target as `task` wants it). Rows: no attack, undefended under attack,
    and for each view the defended model under the attack that this view made. `views` maps a name to what the attacker
    differentiates, given the pipeline; add `"surrogate": lambda p: ...` for more. Every baseline stage is measured as a
    defence of its own beside the pipeline, named after its class or, of a mapping, by its key. Row "worst": per image the
    worst of all attacks and views.

    With `folder`, finished batches are kept there and not redone by a later call with the same arguments. `seed` drives all
    randomness that has no seed of its own: attacks and purifiers with `seed=None`, stages that draw from PyTorch's
    generator. The model is handed back in the mode it came in.
    """
    _check_arguments(pipeline, batches, task, attacks, views)
    run = Measurement(pipeline, task, attacks, views, baselines, seed)
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
    return summarise(run, found)


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
