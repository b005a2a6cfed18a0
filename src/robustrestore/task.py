"""Task and Objective: what a model's outputs mean, and what an attacker wants of them."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Protocol

from torch import Tensor

from .component import Component
from .metrics import Metric


class Measure(Protocol):
    """A function of (outputs, target) with one value per image [N]."""

    def __call__(self, outputs: Tensor, target: Tensor, /) -> Tensor:
        """Values [N]."""
        ...


@dataclass(frozen=True)
class Objective:
    """What an attack raises: one `gain` per image, and whether the goal is `reached`.

    Untargeted, targeted, black-box and mirrored attacks differ in nothing but the objective they are handed.
    """

    measure: Measure
    hit: Callable[[Tensor, Tensor], Tensor]
    target: Tensor
    sign: float = 1.0

    def gain(self, outputs: Tensor) -> Tensor:
        """The value to raise, per image [N], in float32 or finer."""
        return self.sign * self.measure(outputs, self.target)

    def reached(self, outputs: Tensor) -> Tensor:
        """Whether the goal is met, per image, bool [N]; the mirrored goal is met where the plain one is not."""
        hit = self.hit(outputs, self.target)
        return hit if self.sign > 0 else ~hit

    def mirrored(self) -> "Objective":
        """The opposite goal: what was raised is lowered (the mirror of PEARL, Jiao et al., 2023)."""
        return changed(self, sign=-self.sign)

    def at(self, index: Tensor) -> "Objective":
        """The objective of some of the images, chosen by `index` along the batch."""
        return changed(self, target=self.target[index])


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
