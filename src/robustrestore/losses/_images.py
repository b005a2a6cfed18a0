"""What the losses of restoration share: they need a task whose answers are images, and images of one size."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..task import Objective


def check_restoration(objective: Objective, loss: object) -> None:
    """TypeError where the objective compares classes."""
    if objective.classes is not None:
        raise TypeError(
            f"{type(loss).__name__}: expected a task whose answers are images, got one with classes: "
            "use one of the losses of class scores, for example losses.Margin()"
        )


def answer(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The model's own outputs for `images`, without a graph, in float32 or finer."""
    with torch.no_grad():
        outputs = model(images)
    return wide(outputs)


def wide(images: Tensor) -> Tensor:
    """In float32 or finer."""
    return images if images.dtype.itemsize > 4 else images.float()


def difference(outputs: Tensor, other: Tensor, what: str) -> Tensor:
    """`outputs - other` in float32 or finer; ValueError where their shapes differ."""
    if outputs.shape != other.shape:
        raise ValueError(
            f"outputs: expected the shape of the {what} {list(other.shape)}, got {list(outputs.shape)}: "
            "resize or crop one of the two, for example with Adapted"
        )
    found = wide(outputs)
    return found - other.to(found)


def each(values: Tensor) -> Tensor:
    """The mean of each image's values [N]."""
    return values.flatten(1).mean(1)
