"""What recipes share: checks of their arguments, attacks on a part of them, means over a batch."""

import math

import torch
from torch import Tensor, nn

from ..attack import Attack, one_tensor
from ..loss import Loss
from ..modes import evaluating
from ..pipeline import DefendedPipeline
from ..task import Objective, Task
from ..tasks import Restoration


def check_parts(model: nn.Module, task: Task, attack: Attack | None) -> None:
    """TypeError where an argument of a recipe is of the wrong kind."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(task, Task):
        raise TypeError(f"task: expected a task such as rr.tasks.Segmentation(), got {task!r}")
    if attack is not None and not isinstance(attack, Attack):
        raise TypeError(f"attack: expected an attack such as rr.attacks.PGD(rr.Linf(4 / 255), steps=3), got {attack!r}")


def check_pipeline(pipeline: object) -> None:
    """TypeError unless it is a DefendedPipeline."""
    if not isinstance(pipeline, DefendedPipeline):
        raise TypeError(
            f"pipeline: expected a DefendedPipeline, got {type(pipeline).__name__}: write "
            "rr.DefendedPipeline(model, [restorer])"
        )


def check_share(value: float, what: str) -> float:
    """`value` if it is in [0, 1]; ValueError otherwise."""
    if not 0 <= value <= 1:
        raise ValueError(f"{what}: expected a share in [0, 1], got {value}")
    return float(value)


def check_weight(value: float, what: str) -> float:
    """`value` if it is a finite number >= 0; ValueError otherwise."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{what}: expected a finite weight >= 0, got {value}")
    return float(value)


def check_fits(model: nn.Module, task: Task, images: Tensor, target: Tensor) -> None:
    """Raise where a batch's target does not fit the task and what the model answers; shows the model one image."""
    with torch.no_grad(), evaluating(model):
        outputs = one_tensor(model(images[:1]))
    task.check(outputs.expand(len(images), *outputs.shape[1:]), target)


def attacked(attack: Attack, model: nn.Module, images: Tensor, objective: Objective, share: float = 1.0) -> Tensor:
    """The first `share` of the images attacked through `model`, the others as they are; no trace in `model`.

    A share that is no whole number of images is rounded by a draw from PyTorch's generator, so that over many batches, portions
    and processes it is met. Attacks run in evaluation mode and take no gradient in weights.
    """
    count = _rounded(share * len(images))
    if count == 0:
        return images
    with evaluating(model):
        found = attack(model, images[:count], objective.at(torch.arange(count, device=objective.target.device)))
    return torch.cat([found, images[count:]])


def _rounded(count: float) -> int:
    """The whole number, one of the two nearest, whose expectation is `count`."""
    if abs(count - round(count)) < 1e-6:
        return round(count)
    return math.floor(count + float(torch.rand(())))


def distance(loss: Loss | None, found: Tensor, wanted: Tensor) -> Tensor:
    """How far images are from those wanted, [N], with gradients in `found`: what the loss raises; None: the squared error.

    TypeError for a loss of class scores, ValueError for one that asks the model and so does not compare with a target.
    """
    goal = Restoration().untargeted(wanted)
    return (goal if loss is None else loss(_nobody, wanted, goal)).gain(found)


def check_distance(loss: Loss | None, what: str) -> Loss | None:
    """`loss` if it is one, or None; TypeError otherwise."""
    if not isinstance(loss, Loss | None):
        raise TypeError(f"{what}: expected a loss of images such as rr.losses.L1(), or None, got {type(loss).__name__}")
    return loss


def _nobody(images: Tensor) -> Tensor:
    raise ValueError(
        "loss: expected one that compares images with a target, such as rr.losses.L1(), got one that asks the model"
    )
