"""Loss: what an attack raises in place of the task's own loss."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace as changed
from typing import ClassVar, final

from torch import Tensor

from .component import Component
from .task import Objective


class Loss(Component, kind="losses"):
    """Turns a goal into another one to climb: the same images and target, another measure. Plug-ins write `run`.

    The goal that the caller handed to the attack still decides which image is kept. `comparable = False` says that values
    at two images do not compare, because a mask or weight moves with the image: step control then looks at the goal.
    """

    comparable: ClassVar[bool] = True

    @final
    def __call__(self, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> Objective:
        """The goal to climb for clean `images` [N, C, H, W]; may ask the model once, for its clean outputs."""
        return self.run(model, images, objective)

    @abstractmethod
    def run(self, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> Objective:
        """`objective` with another `measure`; tensors with one row an image belong into its `context`."""


class ClassLoss(Loss):
    """A loss of class scores, the same for one label an image and for one a pixel. Plug-ins write `away`.

    The mean over the positions that count is raised. TypeError for a task whose answers are images.
    """

    @final
    def run(self, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> Objective:
        """The mean over labelled positions of `away`, or of `towards` where the goal leads to the labels."""
        if objective.classes is None:
            raise TypeError(
                f"{type(self).__name__}: expected a task with classes, got one whose answers are images: "
                "use one of the losses of restoration, for example losses.L1()"
            )
        classes = objective.classes
        score = self.towards if objective.wants else self.away

        def measure(outputs: Tensor, target: Tensor, /, *context: Tensor) -> Tensor:
            logits, labels, valid = classes.read(outputs, target)
            values = score(logits, labels, valid)
            return (values * valid).sum(1) / valid.sum(1).clamp(min=1)

        return changed(objective, measure=measure, context=(), towards=objective.wants, sign=1.0)

    @abstractmethod
    def away(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Values [N, P] to raise, away from the labels: logits [N, C, P], labels [N, P], which count [N, P]."""

    def towards(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Values [N, P] to raise, towards wanted labels; the negative of `away` unless said otherwise."""
        return -self.away(logits, labels, valid)
