"""Stage: one step of a defence, images to images. Purifier, Restorer: what it is meant to take out."""

from abc import abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import TypeVar, final

import torch
from torch import Tensor, nn

from .component import Component
from .images import check_shape, clamp, pad_to_multiple, straight_through

S = TypeVar("S")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # PyTorch 2.6 cannot compile it
def _has_autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind)


def full_precision(run: Callable[[S, Tensor], Tensor]) -> Callable[[S, Tensor], Tensor]:
    """A `run` that autocast leaves alone: for filters whose arithmetic low precision would spoil."""

    @wraps(run)
    def wrapped(self: S, images: Tensor) -> Tensor:
        if not _has_autocast(images.device.type):
            return run(self, images)
        with torch.autocast(images.device.type, enabled=False):
            return run(self, images)

    return wrapped


class Stage(Component, nn.Module):
    """Images [N, C, H, W] in [0, 1] to images of the same shape and range. Plug-ins write `run`.

    `forward` checks the shape, pads to `multiple`, calls `run`, crops, and clamps with a gradient that passes straight.
    """

    multiple: int = 1

    def __init__(self) -> None:
        super().__init__()

    @final  # type: ignore[misc]
    def forward(self, images: Tensor) -> Tensor:
        """The stage's images; ValueError if `run` changed the shape."""
        check_shape(images)
        if images.shape[0] == 0:
            return images
        padded = pad_to_multiple(images, self.multiple)
        out = self.run(padded)
        if out.shape != padded.shape:
            raise ValueError(
                f"{type(self).__name__}: expected run to keep the shape {list(padded.shape)}, got {list(out.shape)}: "
                "a stage maps images to images of the same size; a super-resolver is a model, not a stage"
            )
        height, width = images.shape[-2:]
        return clamp(out[..., :height, :width])

    @abstractmethod
    def run(self, images: Tensor) -> Tensor:
        """The work, on images whose height and width divide by `multiple`."""


class Purifier(Stage, kind="purifiers"):
    """A stage that takes an attack out."""


class Restorer(Stage, kind="restorers"):
    """A stage that takes degradation (rain, blur, bad optics) out."""


class StraightThrough(Stage):
    """A stage whose backward pass is the identity: the view of a BPDA attacker (Athalye, Carlini and Wagner, 2018)."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def run(self, images: Tensor) -> Tensor:
        """The wrapped stage's images, computed without a graph."""
        return straight_through(self.stage(images.detach()), images)
