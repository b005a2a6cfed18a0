"""optimise: a pipeline, stage or denoiser whose denoisers run faster, and by how much its answers move."""

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .component import Component
from .diffusion import ChannelsLast, Compiled, Denoiser
from .images import check_images
from .modes import generator, seeded
from .pipeline import DefendedPipeline
from .stage import Stage

Part = DefendedPipeline | Stage | Denoiser
P = TypeVar("P", bound=Part)
Way = Callable[[Denoiser], Denoiser]
LEVELS = (0.02, 0.1, 0.5)  # at which denoisers are compared


def optimise(
    part: P, ways: Sequence[Way] = (ChannelsLast, Compiled), images: Tensor | None = None, tolerance: float = 1e-4
) -> P:
    """A copy of `part` whose denoisers are run in these ways, the first one innermost: `diffusion.BFloat16`, `Graphed`, ...

    The original stays as it is: denoisers are copied with their weights, all else is shared. Names in the state dict are the
    original's, gradients flow, `repr` and `config.json` tell the ways. With `images` the two are compared, and a difference
    above `tolerance` raises ValueError. ValueError too for a part without a denoiser. The default ways move answers by
    rounding alone.
    """
    if not isinstance(part, Part):
        raise TypeError(f"part: expected a pipeline, a purifier or restorer, or a denoiser, got {type(part).__name__}")
    ways = _checked(ways)
    memo: dict[int, Any] = {}
    made: dict[int, Denoiser] = {}

    def change(denoiser: Denoiser) -> Denoiser:
        if id(denoiser) not in made:
            made[id(denoiser)] = _wrapped(copy.deepcopy(denoiser, memo), ways)
        return made[id(denoiser)]

    faster: P = _rewritten(part, change)
    if not made:
        raise ValueError(
            f"part: expected a denoiser in it, found none in {part!r}: for other networks take torch.compile and torch.autocast"
        )
    if images is not None and not (found := largest_difference(part, faster, images)) <= tolerance:
        raise ValueError(
            f"optimise: expected outputs within {tolerance:.2g} of the original's, got {found:.2g} on {len(images)} images: "
            "leave out low precision, or say which tolerance will do"
        )
    return faster


def largest_difference(first: Part, second: Part, images: Tensor) -> float:
    """The largest difference of a pixel, in [0, 1] units, between what two parts make of `images`, drawing the same noise.

    Of pipelines the purified images are compared, of denoisers the estimates for noise of 0.02, 0.1 and 0.5.
    """
    check_images(images)
    shown = []
    for part in (first, second):
        with torch.no_grad(), seeded(0):
            shown.append(_shown(part, images))
    return float((shown[0] - shown[1]).abs().max())


def _shown(part: Part, images: Tensor) -> Tensor:
    if isinstance(part, DefendedPipeline):
        return part.clean(images)
    if isinstance(part, Stage):
        purified: Tensor = part(images)
        return purified
    noise = torch.randn(images.shape, generator=generator(0)).to(images)
    return torch.cat([part(images + level * noise, level) for level in LEVELS])


def _checked(ways: Any) -> list[Way]:
    """The ways; TypeError or ValueError for what is none, a denoiser in place of its class, and one that comes twice."""
    if isinstance(ways, type | str) or not isinstance(ways, Iterable) or isinstance(ways, nn.Module):
        raise TypeError(f"ways: expected a list of classes such as [diffusion.BFloat16], got {ways!r}")
    found = list(ways)
    for way in found:
        if isinstance(way, Denoiser):
            name = type(way).__name__
            raise TypeError(f"ways: expected classes such as diffusion.BFloat16, got a {name}: hand over the class itself")
        if not callable(way) or (isinstance(way, type) and not issubclass(way, Denoiser)):
            raise TypeError(f"ways: expected classes such as diffusion.BFloat16, got {way!r}")
    kinds = [way.func if isinstance(way, partial) and isinstance(way.func, type) else way for way in found]
    if twice := [kind for k, kind in enumerate(kinds) if kind in kinds[:k]]:
        raise ValueError(f"ways: expected each way once, got {getattr(twice[0], '__name__', twice[0])} more than once")
    return found


def _wrapped(denoiser: Denoiser, ways: Sequence[Way]) -> Denoiser:
    for way in ways:
        denoiser = way(denoiser)
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"ways: expected classes such as diffusion.BFloat16, got {way!r}, which makes no denoiser")
    return denoiser


def _rewritten(value: Any, change: Callable[[Denoiser], Denoiser]) -> Any:
    """`value` with every denoiser among its settings changed, to the bottom; itself where there is none."""
    if isinstance(value, Denoiser):
        return change(value)
    if isinstance(value, list | tuple):
        items = [_rewritten(one, change) for one in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if not isinstance(value, Component):
        return value
    settings = value.settings()
    made = {name: _rewritten(one, change) for name, one in settings.items()}
    changed = {name: one for name, one in made.items() if one is not settings[name]}
    return value.replace(**changed) if changed else value
