"""Where a training runs: the devices and processes that accelerate finds, its trackers, and the recipe put there."""

import atexit
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..images import trusted
from ..modes import evaluating, seeded
from ..recipe import Batch, Recipe
from ..task import Task

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def on_device(recipe: Recipe, folder: Path | None, trackers: Sequence[str]) -> "Iterator[Accelerator]":
    """accelerate, with the recipe on its device; back where it was afterwards.

    What an earlier Accelerator of this process was told about precision counts for nothing here: the plan's does.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise ImportError("fit needs accelerate: pip install 'robustrestore[train]'") from error
    _check_trackers(trackers, folder)
    alone = not _speaking()
    accelerator = Accelerator(log_with=list(trackers) or None, project_dir=folder)
    if alone and _speaking():
        atexit.register(_leave)
    before = next((weight.device for weight in recipe.parameters()), torch.device("cpu"))
    recipe.to(accelerator.device)
    try:
        yield accelerator
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        recipe.to(before)


def _speaking() -> bool:
    """Whether this is one of several processes that already found each other."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _leave() -> None:
    """Leave the other processes in good order: gloo's threads must be done with Python's objects, or the exit is an abort."""
    distributed: Any = torch.distributed
    if _speaking() and distributed.get_backend() == "gloo":
        time.sleep(0.2)  # in which they get at the interpreter
        distributed.destroy_process_group()


def _check_trackers(trackers: Sequence[str], folder: Path | None) -> None:
    """accelerate leaves out a tracker whose package is missing without a word: ImportError here."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if isinstance(trackers, str):
        raise TypeError(f"trackers: expected a list of names such as ['tensorboard'], got {trackers!r}")
    if trackers and folder is None:
        raise ValueError("trackers: expected a folder for them to write into: fit(..., folder=...)")
    available = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    for name in trackers:
        if name not in available and name != "all":
            if name not in LOGGER_TYPE_TO_CLASS:
                raise ValueError(f"trackers: expected names among {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}, got {name!r}")
            raise ImportError(f"trackers: expected the package of {name} to be installed, it is not: pip install {name}")


def across(recipe: Recipe, accelerator: Any) -> nn.Module:
    """The recipe as a module whose gradients are those of all processes; weights that a step leaves out do no harm."""
    if accelerator.num_processes == 1:
        return recipe
    own = [accelerator.device] if accelerator.device.type == "cuda" else None
    wrapped: nn.Module = nn.parallel.DistributedDataParallel(
        recipe, device_ids=own, find_unused_parameters=True, gradient_as_bucket_view=True
    )
    return wrapped


def share_buffers(module: nn.Module, world: int) -> None:
    """Batch statistics and the like: those of the main process in all, so that they validate and hand back one model."""
    distributed: Any = torch.distributed
    for buffer in module.buffers() if world > 1 else ():
        distributed.broadcast(buffer, 0)


def check_target(recipe: Recipe, batch: Batch) -> None:
    """Raise where the target of a batch does not fit the recipe's task, told by what the model or pipeline answers."""
    task = getattr(recipe, "task", None)
    model = next((m for name in ("pipeline", "model") if isinstance(m := getattr(recipe, name, None), nn.Module)), None)
    if not isinstance(task, Task) or model is None or batch.target is None or "target" not in recipe.needs:
        return
    with evaluating(model), torch.no_grad(), seeded(0), trusted():
        task.check(model(batch.images), batch.target)
