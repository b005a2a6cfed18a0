"""The image contract: float [N, C, H, W] in [0, 1]. Checks, padding, tiling, gradients that pass straight through."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
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

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, source: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, grads[0]


class _StraightForward(_Straight):
    """The same in forward mode, which torch.compile does not know."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return tangents[1].clone()


def straight_through(value: Tensor, source: Tensor) -> Tensor:
    """`value` going forward, the identity on `source` in derivatives (Bengio, Léonard and Courville, 2013)."""
    if value.shape != source.shape:
        raise ValueError(f"expected equal shapes, got {list(value.shape)} and {list(source.shape)}")
    compiling = torch.compiler.is_compiling()
    dual = not compiling and unpack_dual(source).tangent is not None  # type: ignore[no-untyped-call]
    if not dual and not (torch.is_grad_enabled() and source.requires_grad):
        return value.detach()
    kind = _Straight if compiling else _StraightForward
    out: Tensor = kind.apply(value.detach(), source)
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


Place = tuple[slice, slice]


class _Cut(torch.autograd.Function):
    """The pieces of images at some places, those of one group as one batch; the adjoint of `_Join`."""

    @staticmethod
    def forward(images: Tensor, groups: list[list[Place]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat([images[(..., *place)] for place in group]) for group in groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.size, ctx.groups = inputs[0].shape[-2:], inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _Join.apply(ctx.size, ctx.groups, *grads), None


class _Join(torch.autograd.Function):
    """Pieces added up at their places in images of some size; with slices of autograd's own each would cost a whole image."""

    @staticmethod
    def forward(size: Sequence[int], groups: list[list[Place]], *pieces: Tensor) -> Tensor:
        count, channels = len(pieces[0]) // len(groups[0]), pieces[0].shape[1]
        total = pieces[0].new_zeros(count, channels, *size)
        for group, batch in zip(groups, pieces, strict=True):
            for place, piece in zip(group, torch.split(batch, count), strict=True):
                total[(..., *place)] += piece
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.groups = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, None, *_Cut.apply(grads[0], ctx.groups)


def tiled(run: Callable[[Tensor], Tensor], images: Tensor, tile: int, overlap: int, at_once: int = 1) -> Tensor:
    """`run` on overlapping tiles of at most `tile` x `tile` pixels, blended linearly over `overlap` pixels.

    `run` maps [N, C, h, w] -> [N, C', h, w]; it is shown `at_once` tiles of every image in one batch. An image that fits into
    one tile is handed over whole. Time and memory grow with the pixels, those of gradients too.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"expected 0 <= overlap < tile, got overlap {overlap} and tile {tile}")
    if at_once < 1:
        raise ValueError(f"at_once: expected a whole number of tiles >= 1, got {at_once}")
    height, width = images.shape[-2:]
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    if len(rows) == len(columns) == 1:
        return run(images)
    high, wide = min(tile, height), min(tile, width)
    places = [(slice(top, top + high), slice(left, left + wide)) for top in rows for left in columns]
    groups = [places[k : k + at_once] for k in range(0, len(places), at_once)]
    blended = [_blended(run(batch), batch, overlap) for batch in _Cut.apply(images, groups)]
    weight = _blended(torch.ones_like(blended[0][:1, :1]), blended[0], overlap)
    whole: Tensor = _Join.apply((height, width), [[place] for place in places], *[weight] * len(places))
    joined: Tensor = _Join.apply((height, width), groups, *blended)
    return joined / whole


def _blended(out: Tensor, tile: Tensor, overlap: int) -> Tensor:
    """What `run` made of a tile, faded out towards its edges."""
    high, wide = tile.shape[-2:]
    if out.shape[-2:] != tile.shape[-2:]:
        raise ValueError(
            f"expected run to keep the size {[high, wide]}, got {list(out.shape[-2:])}: a tile has to fit its place"
        )
    return out * (_ramp(high, overlap, out)[:, None] * _ramp(wide, overlap, out)[None])
