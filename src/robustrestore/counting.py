"""Counted: what an attack costs, in calls of the model, images shown and gradients taken."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Counted(nn.Module):
    """A model that counts how it is used; outputs, gradients, modes and parameters are the model's own.

    `forwards`: calls. `images`: images shown, over all calls: the queries of a black-box attack. `backwards`: gradients
    taken in the input; a gradient in weights alone is none. Takes any callable; of a bound method (`pipeline.predict`) the
    module goes along, so that its modes can be set. A model that checkpointing runs again is counted again.
    """

    def __init__(self, model: Callable[[Tensor], Any]) -> None:
        super().__init__()
        if not callable(model):
            raise TypeError(f"model: expected a module or a function of images, got {type(model).__name__}")
        self.model = model
        owner = getattr(model, "__self__", None)
        self.owner = owner if isinstance(owner, nn.Module) else None
        self.reset()

    def reset(self) -> None:
        """Start again from zero."""
        self.forwards = self.images = self.backwards = 0

    def forward(self, images: Tensor) -> Any:
        """The model's outputs."""
        self.forwards, self.images = self.forwards + 1, self.images + len(images)
        if images.requires_grad:
            images = images.view_as(images)  # the hook ends with this call's graph, not with the caller's tensor
            images.register_hook(self._note)  # type: ignore[no-untyped-call]
        return self.model(images)

    def _note(self, gradient: Tensor) -> None:
        self.backwards += 1
