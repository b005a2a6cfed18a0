"""The image contract: float [N, C, H, W] in [0, 1]. Checks, padding, tiling, gradients that pass straight through."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 1e-4
_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


def check_shape(images: Tensor, what: str = "images") -> None:
    """Raise unless `images` is a floating [N, C, H, W] tensor. Looks at no value, so it costs no synchronisation."""
    if not isinstance(images, Tensor):
        raise TypeError(f"{what}: expected a torch.Tensor, got {type(images).__name__}: convert it with torch.as_tensor")
    if images.dim() != 4:
        hint = "add the batch axis with images[None]" if images.dim() == 3 else "arrange it as a batch of images"
        raise ValueError(f"{what}: expected shape [N, C, H, W], got {list(images.shape)}: {hint}")
    if not images.is_floating_point():
        raise TypeError(f"{what}: expected a floating dtype, got {images.dtype}: use images.float() / 255")
    if 0 in images.shape[1:]:
        raise ValueError(f"{what}: expected at least one channel and pixel, got {list(images.shape)}")


def check_images(images: Tensor, what: str = "images") -> None:
    """Raise unless `images` keeps the contract: shape, dtype, finite values within [0, 1] (rounding tolerated).

    Inside `trusted()` and while compiling only the shape is looked at.
    """
    check_shape(images, what)
    if torch.compiler.is_compiling() or _trusted.get() or images.numel() == 0:
        return
    low, high = torch.aminmax(images.detach())
    smallest, largest = float(low), float(high)
    if not (smallest == smallest and largest == largest and abs(smallest) + abs(largest) < float("inf")):
        raise ValueError(f"{what}: expected finite values, got NaN or infinity: clean the input first")
    if smallest < -TOLERANCE or largest > 1 + TOLERANCE:
        raise ValueError(
            f"{what}: expected values in [0, 1], got [{smallest:.4g}, {largest:.4g}]: "
            "divide by 255, or undo the normalisation and hand mean and std to Adapted"
        )


@contextmanager
def trusted() -> Iterator[None]:
    """Within the block values count as checked: for loops that call a pipeline often with images of their own making."""
    token = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(token)


class _Straight(torch.autograd.Function):
    """The first argument's value with the gradient handed to the second."""

    @staticmethod
    def forward(value: Tensor, source: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, grads[0]


def straight_through(value: Tensor, source: Tensor) -> Tensor:
    """`value` going forward, the identity on `source` going backward (Bengio, Léonard and Courville, 2013)."""
    if value.shape != source.shape:
        raise ValueError(f"expected equal shapes, got {list(value.shape)} and {list(source.shape)}")
    if not (torch.is_grad_enabled() and source.requires_grad):
        return value.detach()
    out: Tensor = _Straight.apply(value.detach(), source)
    return out


def clamp(images: Tensor) -> Tensor:
    """Clamp to [0, 1]; the gradient passes as if nothing was cut, so a saturated pixel hides none from an attack."""
    return straight_through(images.clamp(0, 1), images)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """[N] values shaped to broadcast over [N, ...] images."""
    return values.view(-1, *([1] * (images.dim() - 1)))


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Extend the bottom and right edges by replication until height and width divide by `multiple`."""
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, bottom), mode="replicate") if bottom or right else images


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    if length <= tile:
        return [0]
    starts = list(range(0, length - tile, tile - overlap))
    return [*starts, length - tile]


def _ramp(length: int, overlap: int, like: Tensor) -> Tensor:
    position = torch.arange(length, device=like.device, dtype=torch.float32)  # half precision cannot count that far
    ramp = torch.minimum(position + 1, length - position).clamp(max=overlap + 1) / (overlap + 1)
    return ramp.to(like.dtype)


def tiled(run: Callable[[Tensor], Tensor], images: Tensor, tile: int, overlap: int) -> Tensor:
    """`run` on overlapping tiles of at most `tile` x `tile` pixels, blended linearly over `overlap` pixels.

    `run` maps [N, C, h, w] -> [N, C', h, w]. An image that fits into one tile is handed over whole.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"expected 0 <= overlap < tile, got overlap {overlap} and tile {tile}")
    height, width = images.shape[-2:]
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    if len(rows) == len(columns) == 1:
        return run(images)
    total: Tensor | None = None
    weight = images.new_zeros(1, 1, height, width)
    for top in rows:
        for left in columns:
            piece = images[..., top : top + tile, left : left + tile]
            out = run(piece)
            h, w = piece.shape[-2:]
            if out.shape[-2:] != piece.shape[-2:]:
                raise ValueError(
                    f"expected run to keep the size {[h, w]}, got {list(out.shape[-2:])}: a tile has to fit its place"
                )
            blend = _ramp(h, overlap, out)[:, None] * _ramp(w, overlap, out)[None]
            if total is None:
                total = (out * blend).new_zeros(*out.shape[:2], height, width)
            place = (..., slice(top, top + h), slice(left, left + w))
            weight[place] += blend.to(weight)
            if out.requires_grad:
                total = total + F.pad(out * blend, (left, width - left - w, top, height - top - h))
            else:  # without a graph the sum is made in place: the cost grows with the image, not with its square
                total[place] += out * blend
    return images if total is None else total / weight.to(total)
