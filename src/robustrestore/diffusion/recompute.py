"""recomputed: a function without a graph now, and with one in the backward pass, so that a chain keeps its inputs alone."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states


def recomputed(function: Callable[..., Tensor], inputs: Sequence[Tensor], weights: Iterable[Tensor] = ()) -> Tensor:
    """`function(*inputs)`, evaluated once more in the backward pass, randomness and autocast replayed; keeps the inputs alone.

    Gradients reach `inputs` and those `weights` that want one, and nothing else that `function` may hold. PyTorch's checkpoint
    of a function that takes a gradient of its own would evaluate it twice already in the forward pass, and with a graph.
    """
    wanted = [weight for weight in weights if weight.requires_grad]
    if not (torch.is_grad_enabled() and any(one.requires_grad for one in (*inputs, *wanted))):
        return function(*inputs)
    out: Tensor = _Recomputed.apply(function, len(inputs), *inputs, *wanted)
    return out


class _Recomputed(torch.autograd.Function):
    """The value, with a backward pass that makes its graph anew."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        first = tensors[0]
        ctx.function, ctx.count = function, count
        ctx.random = (torch.get_rng_state(), *get_device_states(first))
        ctx.precision = _precision(first.device.type)
        return function(*(one.detach() for one in tensors[:count]))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        inputs, weights = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        state, devices, states = ctx.random
        graph = torch.is_grad_enabled()  # a derivative of this one is asked for
        leaves = [one if graph else one.detach().requires_grad_(one.requires_grad) for one in inputs]
        kind = inputs[0].device.type if devices else "cuda"
        with torch.random.fork_rng(devices, device_type=kind), ctx.precision(), torch.enable_grad():
            torch.set_rng_state(state)
            set_device_states(devices, states)
            again = ctx.function(*leaves)
        asked = [one for one in (*leaves, *weights) if one.requires_grad]
        found: list[Tensor | None] = [None] * len(asked)
        if again.requires_grad:
            found = list(torch.autograd.grad(again, asked, grad, create_graph=graph, allow_unused=True))
        return None, None, *(found.pop(0) if one.requires_grad else None for one in (*leaves, *weights))


def _precision(kind: str) -> Callable[[], AbstractContextManager[Any]]:
    """Autocast as it now is."""
    if not torch.amp.is_autocast_available(kind):
        return nullcontext
    dtype, on = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=on)
