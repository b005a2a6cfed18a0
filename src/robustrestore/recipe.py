"""Recipe: what training is. A batch in, named losses out; which part is trained, and what it needs to see."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import fields as fields_of
from dataclasses import replace as changed
from typing import Any, final

import torch
from torch import Tensor, nn

from .component import Component
from .images import check_images


@dataclass(frozen=True)
class Batch:
    """What a recipe sees at once: `images` [N, C, H, W] in [0, 1] as the defence meets them, and what belongs to them.

    `target`: the truth as the task wants it (labels, label maps, clean images). `clean`: the images without degradation,
    where the target is something else. `index`: the places [N] of the images in their data set.
    """

    images: Tensor
    target: Tensor | None = None
    clean: Tensor | None = None
    index: Tensor | None = None

    @classmethod
    def of(cls, found: Any) -> "Batch":
        """From what data sets yield: a Batch, a mapping of its fields, (images, target) or (images, target, clean)."""
        names = [field.name for field in fields_of(cls)]
        if isinstance(found, Batch):
            return found
        if isinstance(found, Mapping):
            if "images" not in found or (unknown := sorted(set(found) - set(names))):
                unknown = sorted(set(found) - set(names))
                raise ValueError(
                    f"batch: expected a mapping with images and of {names}, got {sorted(found)}, unknown {unknown}"
                )
            return cls(**found)
        if isinstance(found, Tensor):
            return cls(found)
        if isinstance(found, list | tuple) and 1 <= len(found) <= 3:
            return cls(*found)
        raise TypeError(f"batch: expected (images, target) or a mapping of {names}, got {type(found).__name__}")

    def given(self) -> tuple[str, ...]:
        """The names of the fields that are there."""
        return tuple(field.name for field in fields_of(self) if getattr(self, field.name) is not None)

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device."""
        return changed(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in self.given()})

    def truth(self) -> Tensor:
        """The target; ValueError where there is none."""
        return _there(self.target, "target")

    def intact(self) -> Tensor:
        """The clean images; ValueError where there are none."""
        return _there(self.clean, "clean")


def _there(field: Tensor | None, name: str) -> Tensor:
    if field is None:
        raise ValueError(f"batch: expected the field {name}, got none: let the data set yield a mapping with {name!r} in it")
    return field


class Recipe(Component, nn.Module, kind="recipes"):
    """One step of a training, as a module: `forward(batch)` gives named losses [] with "loss" among them. Plug-ins write `run`.

    `trained`: the part whose weights move; everything else in the recipe is frozen while it trains (see `training`). `needs`:
    the fields of a batch without which the recipe cannot work; one that depends on arguments is set in `__init__`.
    """

    needs: tuple[str, ...] = ("images", "target")

    def __init__(self) -> None:
        super().__init__()

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The part whose weights move."""

    @final  # type: ignore[misc]
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of one batch; ValueError for a missing field or a loss that is not one number."""
        self.check(batch)
        check_images(batch.images)
        if "clean" in self.needs:
            check_images(batch.intact(), "clean")
        losses = self.run(batch)
        total = losses.get("loss")
        if total is None or total.dim() != 0:
            shape = None if total is None else list(total.shape)
            raise ValueError(
                f"{type(self).__name__}: expected run to give a scalar 'loss', got {sorted(losses)}, shape {shape}"
            )
        return losses

    @final
    def check(self, batch: Batch) -> None:
        """ValueError that names the fields of a batch that are missing."""
        if missing := [name for name in self.needs if name not in batch.given()]:
            raise ValueError(
                f"{type(self).__name__}: expected batches with {', '.join(self.needs)}, missing {', '.join(missing)}: let the "
                "data set yield a mapping of these names, or (images, target, clean)"
            )

    @abstractmethod
    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The losses, each a mean over the batch; "loss" is what is minimised, the others are for the log."""


@contextmanager
def training(recipe: Recipe) -> Iterator[list[nn.Parameter]]:
    """The trained part in training mode and with gradients, all else in evaluation mode and without; put back at the end.

    Yields the parameters to optimise. ValueError where there are none.
    """
    ours = {id(part) for part in recipe.trained.modules()}
    weights = list(recipe.trained.parameters())
    if not weights:
        raise ValueError(f"{type(recipe).__name__}: expected a trained part with parameters, {recipe.trained!r} has none")
    chosen = {id(weight) for weight in weights}
    if not chosen <= {id(weight) for weight in recipe.parameters()}:
        raise ValueError(
            f"{type(recipe).__name__}: expected the trained part among its modules, or it is neither moved nor put back: "
            "store it as an attribute of the recipe"
        )
    modes = [(part, part.training) for part in recipe.modules()]
    wanted = [(weight, weight.requires_grad) for weight in recipe.parameters()]
    try:
        for part, _ in modes:
            part.training = id(part) in ours
        for weight, _ in wanted:
            weight.requires_grad_(id(weight) in chosen)
        yield weights
    finally:
        for part, mode in modes:
            part.training = mode
        for weight, want in wanted:
            weight.requires_grad_(want)
