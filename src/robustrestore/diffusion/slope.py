"""slope: the gradient of a sum inside a forward pass, differentiable once more at the memory of one evaluation."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states

from .guidance import differentiating

Loss = Callable[[Tensor], Tensor]


def slope(loss: Loss, images: Tensor, weights: Iterable[Tensor] = (), checkpointed: bool = True) -> Tensor:
    """d sum(loss(images)) / d images, which carries its own gradient in `images` and in those `weights` that want one.

    `checkpointed`: keep `images` alone and evaluate again in the backward pass, randomness and autocast replayed. A plain
    checkpoint around the gradient gives the same and evaluates twice already in the forward pass.
    """
    wanted = [weight for weight in weights if weight.requires_grad]
    if not (torch.is_grad_enabled() and (images.requires_grad or wanted)):
        return _slope(loss, images.detach(), False)
    if not checkpointed:
        return _slope(loss, images, True)
    out: Tensor = _Recomputed.apply(loss, images, *wanted)
    return out


def _slope(loss: Loss, images: Tensor, graph: bool) -> Tensor:
    with differentiating():
        leaf = images if images.requires_grad else images.detach().requires_grad_()
        value = loss(leaf).sum()
        if not value.requires_grad:
            return torch.zeros_like(images)
        found = torch.autograd.grad(value, leaf, create_graph=graph, allow_unused=True)[0]
    return torch.zeros_like(images) if found is None else found


class _Recomputed(torch.autograd.Function):
    """The slope, with a backward pass that makes its graph anew."""

    @staticmethod
    def forward(ctx: Any, loss: Loss, images: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(images, *weights)
        kind = images.device.type
        ctx.loss, ctx.random = loss, (torch.get_rng_state(), *get_device_states(images))
        ctx.precision = _precision(kind)
        return _slope(loss, images.detach(), False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        images, *weights = ctx.saved_tensors
        state, devices, states = ctx.random
        graph = torch.is_grad_enabled()  # a third derivative is asked for
        leaf = images if graph and images.requires_grad else images.detach().requires_grad_()
        with torch.random.fork_rng(devices, device_type=images.device.type if devices else "cuda"), ctx.precision():
            torch.set_rng_state(state)
            set_device_states(devices, states)
            again = _slope(ctx.loss, leaf, True)
        if not again.requires_grad:
            return None, torch.zeros_like(images), *[None] * len(weights)
        return None, *torch.autograd.grad(again, (leaf, *weights), grad, create_graph=graph, allow_unused=True)


def _precision(kind: str) -> Callable[[], AbstractContextManager[Any]]:
    """Autocast as it now is."""
    if not torch.amp.is_autocast_available(kind):
        return nullcontext
    dtype, on = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=on)
