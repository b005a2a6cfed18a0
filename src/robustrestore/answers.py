"""Answers: which classes a network names, to be compared with those that it names on the same images otherwise."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .feature import Batches, images_of
from .modes import evaluating
from .weights import fingerprint


@dataclass(frozen=True, eq=False)
class Answered:
    """The classes named for `count` images, int16 [N, ...] on the CPU, in order; `key` says by which network."""

    count: int
    classes: Tensor
    key: str

    def distance(self, other: "Answered") -> float:
        """Share of answers that differ, 0 to 1; ValueError unless both are one network's on equally many images."""
        if self.key != other.key:
            raise ValueError(f"expected answers of the same network, got {self.key} and {other.key}: ask both again")
        if self.classes.shape != other.classes.shape:
            shapes = f"{list(self.classes.shape)} and {list(other.classes.shape)}"
            raise ValueError(f"expected answers to the same images in the same order, got {shapes}: hand over partners")
        return float((self.classes != other.classes).double().mean())


class Answers:
    """What a classifier or segmenter answers, in place of `Features` in `select_noise_level`: our own, beside ANLS.

    The distance is the share of answers that differ from those to the very images before the attack, in the same order: one
    class an image or a pixel, the largest of outputs [N, C, ...]. The answers are the network's own, so no label is needed.
    It serves who makes the attacked images himself; ANLS can do without such partners.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        self.model = model

    @property
    def key(self) -> str:
        """What the answers depend on: the network and its weights."""
        return f"answers of {type(self.model).__name__} {fingerprint(self.model)[:12]}"

    def statistics(self, batches: Batches, through: Callable[[Tensor], Tensor] | None = None) -> Answered:
        """The answers to all images, each sent `through` a stage first if there is one; batches as for `Features`."""
        found: list[Tensor] = []
        with torch.no_grad(), evaluating(self.model, through):
            for images in images_of(batches, through):
                outputs = self.model(images)
                if not isinstance(outputs, Tensor) or outputs.dim() < 2:
                    raise TypeError(f"model: expected class scores [N, C, ...], got {_what(outputs)}: wrap it in Adapted")
                if bool(outputs.isnan().any()):
                    bad = sum(len(one) for one in found) + int(outputs.isnan().flatten(1).any(1).nonzero()[0])
                    raise ValueError(f"model: expected scores, got NaN for image {bad}: look at the model")
                found.append(outputs.argmax(1).to(torch.int16).cpu())
        if not found:
            raise ValueError("batches: expected at least 1 image, got none")
        classes = torch.cat(found)
        return Answered(len(classes), classes, self.key)


def _what(outputs: object) -> str:
    return f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
