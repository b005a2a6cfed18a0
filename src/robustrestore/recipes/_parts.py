"""What recipes share: checks of their arguments, attacks on a part of them, means over a batch."""

import math

import torch
from torch import Tensor, nn

from ..attack import Attack
from ..modes import evaluating
from ..task import Objective, Task


def check_parts(model: nn.Module, task: Task, attack: Attack | None) -> None:
    """TypeError where an argument of a recipe is of the wrong kind."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(task, Task):
        raise TypeError(f"task: expected a task such as rr.tasks.Segmentation(), got {task!r}")
    if attack is not None and not isinstance(attack, Attack):
        raise TypeError(f"attack: expected an attack such as rr.attacks.PGD(rr.Linf(4 / 255), steps=3), got {attack!r}")


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


def attacked(attack: Attack, model: nn.Module, images: Tensor, objective: Objective, share: float = 1.0) -> Tensor:
    """The first `share` of the images (rounded up) attacked through `model`, the others as they are; no trace in `model`.

    Attacks run in evaluation mode and take no gradient in weights, so batch statistics and gradients stay untouched.
    """
    count = math.ceil(share * len(images) - 1e-9)
    if count == 0:
        return images
    with evaluating(model):
        found = attack(model, images[:count], objective.at(torch.arange(count, device=objective.target.device)))
    return torch.cat([found, images[count:]])
