"""What the bridges to other attack libraries share: a sealed model, options as settings, randomness that leaves no trace."""

import importlib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..attack import Model
from ..modes import seeded
from ..search import Search
from ..task import Objective

Options = Mapping[str, Any] | Sequence[Sequence[Any]]
"""Keyword arguments of a peer's class: a mapping, or the pairs that it is kept as."""

_PLAIN = bool | int | float | str | None


class Sealed(nn.Module):
    """A model as peers want it: a module of [0, 1] images that gives one tensor and, back, the gradient of the image alone.

    Whatever a peer does to it (modes, `backward()`, `.to`) stays outside of the real model: that one keeps its modes, and
    no gradient of its weights is computed or stored.
    """

    def __init__(self, model: Model, like: Tensor) -> None:
        super().__init__()
        self.ask = model
        self.place = nn.Parameter(like.new_empty(0), requires_grad=False)  # peers look here for device and dtype
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """The outputs; differentiable once, in the images, as often as asked."""
        differentiated = images.requires_grad and torch.is_grad_enabled()
        outputs: Tensor = _Seal.apply(self.ask, images) if differentiated else self.ask(images)
        return outputs


class _Seal(torch.autograd.Function):
    """A call whose graph is kept apart, so that a peer's `backward()` ends at the image."""

    @staticmethod
    def forward(ctx: Any, ask: Model, images: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            outputs = ask(leaf)
        if not outputs.requires_grad:
            raise ValueError("model: expected outputs that depend on the images differentiably, got none: take another attack")
        ctx.leaf, ctx.outputs = leaf, outputs
        return outputs.detach().clone()  # a peer may write into it

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        (gradient,) = torch.autograd.grad(ctx.outputs, ctx.leaf, slopes[0], retain_graph=True, allow_unused=True)
        return None, gradient


@contextmanager
def drawing(seed: int | None) -> Iterator[int]:
    """All generators that a peer may draw from (PyTorch's, NumPy's, Python's) seeded for the block, and as before after it.

    Yields the seed; None draws one from PyTorch's.
    """
    import numpy as np

    number = int(torch.randint(0, 2**31, ())) if seed is None else seed
    ours, theirs = random.getstate(), np.random.get_state()
    try:
        with seeded(number):
            random.seed(number)
            np.random.seed(number % 2**32)
            yield number
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)


def as_pairs(options: Options) -> list[list[Any]]:
    """Options as pairs of a name and a plain value, which settings can hold. Raises TypeError for anything else."""
    pairs = [list(pair) for pair in (options.items() if isinstance(options, Mapping) else options)]
    for pair in pairs:
        if len(pair) != 2 or not isinstance(pair[0], str):
            raise TypeError(f"options: expected names with values, got {pair!r}")
        values = pair[1] if isinstance(pair[1], list | tuple) else [pair[1]]
        if not all(isinstance(value, _PLAIN) for value in values):
            raise TypeError(f"options: expected {pair[0]} as a number, text, switch or list, got {type(pair[1]).__name__}")
    return pairs


def peer(module: str, bridge: str) -> Any:
    """The peer's module; ImportError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{bridge} needs {package}: pip install 'robustrestore[attacks]' ({error})") from error


def parameters(made: Callable[..., Any], given: Mapping[str, Any], own: Sequence[str] = ()) -> set[str]:
    """The names of a class's arguments; `given` checked to be among them and whole. `own` are the bridge's to give."""
    known = {name: p for name, p in inspect.signature(made).parameters.items() if name not in own}
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"options: expected settings of {made.__name__} among {sorted(known)}, got {unknown}")
    if missing := [
        n for n, p in known.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and n not in given
    ]:
        raise ValueError(f"options: expected all that {made.__name__} needs, missing {missing}")
    return set(known)


def better_of(model: Model, images: Tensor, found: Tensor, attack: Any, objective: Objective) -> Tensor:
    """Per image what the peer found, brought into the threat, or the original where that serves the objective more."""
    search = Search(model, images, objective)
    search.look(images)
    search.look(attack.threat.project(found.detach().to(images), images))
    return search.result()
