"""Adapted: the user's model as "[0, 1] images in, one tensor out"."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .component import Component
from .images import check_shape, pad_to_multiple


class Adapted(Component, nn.Module, kind="models", name="adapted"):
    """Wraps a model that wants normalised input or returns more than one tensor.

    `mean`, `std`: per channel, in [0, 1] units, in the order in which the model takes its channels. `channels`: that
    order, [2, 1, 0] for BGR. `multiple`: the model needs height and width that divide by it; images are padded by
    replication and outputs of the padded size cropped. `pick`: which output, a key or attribute ("out", "logits") or a
    position. `upsample`: how outputs [N, C, h, w] smaller than the image are brought to its size; None leaves them.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channels: Sequence[int] | None = None,
        multiple: int = 1,
        pick: str | int | None = None,
        upsample: Literal["bilinear", "nearest", "bicubic"] | None = "bilinear",
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        if std is not None and not all(value > 0 for value in std):
            raise ValueError(f"std: expected values > 0, got {list(std)}")
        self.model = model
        self.mean, self.std = (None if v is None else [float(x) for x in v] for v in (mean, std))
        self.channels = None if channels is None else [int(c) for c in channels]
        self.multiple, self.pick, self.upsample = multiple, pick, upsample

    def _normalised(self, images: Tensor) -> Tensor:
        if self.channels is not None:
            images = images[:, self.channels]
        for what, values in (("mean", self.mean), ("std", self.std)):
            if values is None:
                continue
            if len(values) != images.shape[1]:
                raise ValueError(f"{what}: expected one value for each of {images.shape[1]} channels, got {len(values)}")
            row = torch.tensor(values, device=images.device, dtype=images.dtype).view(1, -1, 1, 1)
            images = images - row if what == "mean" else images / row
        return images

    def forward(self, images: Tensor) -> Tensor:
        """One tensor of outputs for images [N, C, H, W] in [0, 1]."""
        check_shape(images)
        padded = pad_to_multiple(images, self.multiple)
        outputs = _pick(self.model(self._normalised(padded)), self.pick)
        return self._fit(outputs, padded.shape[-2:], images.shape[-2:])

    def _fit(self, outputs: Tensor, padded: Sequence[int], size: Sequence[int]) -> Tensor:
        if outputs.dim() != 4:
            return outputs
        smaller = outputs.shape[-2] < padded[0] or outputs.shape[-1] < padded[1]
        if smaller and self.upsample is not None:
            corners = None if self.upsample == "nearest" else False
            outputs = F.interpolate(outputs, tuple(padded), mode=self.upsample, align_corners=corners)
        if tuple(outputs.shape[-2:]) == tuple(padded):
            outputs = outputs[..., : size[0], : size[1]]
        return outputs


def _pick(outputs: Any, key: str | int | None) -> Tensor:
    """The one tensor asked for, or the only one there is; an error lists what there is."""
    if key is None and isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        known: list[str | int] = list(outputs)
        found = outputs[known[0]] if key is None and len(known) == 1 else outputs.get(key)
    elif isinstance(outputs, list | tuple) and not isinstance(key, str):
        known = list(range(len(outputs)))
        position = 0 if key is None and len(known) == 1 else key
        found = outputs[position] if position is not None and -len(known) <= position < len(known) else None
    else:
        names = getattr(outputs, "_fields", None) or getattr(outputs, "__dict__", {})
        known = [name for name in names if isinstance(getattr(outputs, name), Tensor)]
        found = getattr(outputs, key, None) if isinstance(key, str) else None
    if not isinstance(found, Tensor):
        raise ValueError(
            f"outputs: expected one tensor, got {type(outputs).__name__} with {known or 'nothing to pick'}"
            f"{'' if key is None else f', where {key!r} is no tensor'}: choose one with Adapted(..., pick=...)"
        )
    return found
