"""Task and Objective: what a model's outputs mean, and what an attacker wants of them."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Literal

import torch
from torch import Tensor

from .component import Component
from .metrics import Metric

Measure = Callable[..., Tensor]
"""A function of (outputs, target) and perhaps more tensors with one row an image; one value per image [N]."""

Answer = Literal["label", "map", "image"]
"""What a model says of one image: a class, a class for every pixel, or an image."""


@dataclass(frozen=True)
class Classes:
    """How outputs are read as class scores: logits [N, C, ...] that face labels [N, ...]; `ignore` counts nowhere."""

    ignore: int | None = None

    def read(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [N, C, P] in float32 or finer, labels [N, P] (0 where ignored), and which of them count [N, P]."""
        logits = outputs if outputs.dtype == torch.float64 else outputs.float()
        logits = logits[..., None] if logits.dim() == 2 else logits.flatten(2)
        labels = target.long()[:, None].flatten(1)
        valid = torch.ones_like(labels, dtype=torch.bool) if self.ignore is None else labels != self.ignore
        return logits, labels.where(valid, 0), valid


@dataclass(frozen=True)
class Objective:
    """What an attack raises: one `gain` per image, whether the goal is `reached`, and the `harm` done.

    Untargeted, targeted, black-box and mirrored attacks differ in nothing but the objective they are handed. `context`:
    tensors with one row an image that `measure` is handed after the target.
    """

    measure: Measure
    hit: Callable[[Tensor, Tensor], Tensor]
    target: Tensor
    sign: float = 1.0
    harmed: Callable[[Tensor, Tensor], Tensor] | None = None
    classes: Classes | None = None
    context: tuple[Tensor, ...] = ()
    by_harm: bool = False
    towards: bool = False  # the target is wanted, not the truth

    @property
    def answer(self) -> Answer:
        """What the model says of one image."""
        if self.classes is None:
            return "image"
        return "label" if self.target.dim() == 1 else "map"

    @property
    def reading(self) -> Classes:
        """How outputs are read as class scores; TypeError where the answers are images."""
        if self.classes is None:
            raise TypeError("objective: expected one of a task with classes, got one whose answers are images")
        return self.classes

    @property
    def wants(self) -> bool:
        """Whether the attack leads to the target, a mirrored goal included; away from it otherwise."""
        return self.towards == (self.sign > 0)

    def gain(self, outputs: Tensor) -> Tensor:
        """The value to raise, per image [N], in float32 or finer."""
        return self.sign * self.measure(outputs, self.target, *self.context)

    def reached(self, outputs: Tensor) -> Tensor:
        """Whether the goal is met, per image, bool [N]; the mirrored goal is met where the plain one is not."""
        hit = self.hit(outputs, self.target)
        return hit if self.sign > 0 else ~hit

    def harm(self, outputs: Tensor) -> Tensor:
        """What counts in the end, [N] in 0..1: a wrong label, the share of wrong pixels, the squared error of what is shown.

        1 leaves nothing to win. 0 for a task that says nothing of harm, and for a mirrored goal.
        """
        if self.harmed is None or self.sign < 0:
            return torch.zeros(len(self.target), device=outputs.device)
        return self.harmed(outputs, self.target).float()

    def judged(self) -> "Objective":
        """The same goal where only the harm counts: attacks keep the most harmful image and drop what is fully harmed.

        For measuring a defence. Training wants the plain one: there the highest gain is kept.
        """
        return changed(self, by_harm=True)

    def mirrored(self) -> "Objective":
        """The opposite goal: what was raised is lowered (the mirror of PEARL, Jiao et al., 2023)."""
        return changed(self, sign=-self.sign)

    def at(self, index: Tensor) -> "Objective":
        """The objective of some of the images, chosen by `index` along the batch."""
        return changed(self, target=self.target[index], context=tuple(one[index] for one in self.context))

    def cloned(self) -> "Objective":
        """With tensors of its own: those it came with may have been made under inference_mode."""
        return changed(self, target=self.target.clone(), context=tuple(one.clone() for one in self.context))


class Task(Component, kind="tasks"):
    """The only place that knows what outputs mean. Plug-ins write the abstract methods."""

    @abstractmethod
    def check(self, outputs: Tensor, target: Tensor) -> None:
        """Raise unless outputs and target fit this task and each other; looks at values (one synchronisation)."""

    @abstractmethod
    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The training loss per image [N], finite for every target that `check` lets through."""

    @abstractmethod
    def correct(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Whether each image counts as solved, bool [N]."""

    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """What a report shows; the first one decides which of several attacks was worst for an image."""

    @abstractmethod
    def untargeted(self, target: Tensor) -> Objective:
        """Lead the model away from the truth `target`."""

    @abstractmethod
    def targeted(self, wanted: Tensor) -> Objective:
        """Lead the model to `wanted`."""

    @abstractmethod
    def render(self, outputs: Tensor, images: Tensor) -> Tensor:
        """A picture [N, 3, H, W] in [0, 1] of the outputs for `images`."""
