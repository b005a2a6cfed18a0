"""recomputed: a function without a graph now, and with one in the backward pass, so that a chain keeps its inputs alone."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd.forward_ad import unpack_dual
from torch.utils.checkpoint import get_device_states, set_device_states

_CARRYING = {TransformType.Vmap, TransformType.Jvp}


def recomputed(function: Callable[..., Tensor], inputs: Sequence[Tensor], weights: Iterable[Tensor] = ()) -> Tensor:
    """`function(*inputs)`, evaluated once more in the backward pass, randomness and autocast replayed; keeps the inputs alone.

    Gradients reach `inputs` and those `weights` that want one, and nothing else that `function` may hold; derivatives of
    gradients are recomputed likewise, to any order. In forward mode and under `torch.vmap` nothing is recomputed;
    `torch.func.jacrev` raises NotImplementedError. PyTorch's checkpoint of a function that takes a gradient of its own would
    evaluate it twice already in the forward pass, and with a graph.
    """
    wanted = [weight for weight in weights if weight.requires_grad]
    if not (torch.is_grad_enabled() and any(one.requires_grad for one in (*inputs, *wanted))):
        return function(*inputs)
    if _is_carried((*inputs, *wanted)):
        return function(*inputs)
    out: Tensor = _Recomputed.apply(function, _Replayed(function, inputs[0]), len(inputs), *inputs, *wanted)
    return out


def _is_carried(tensors: Iterable[Tensor]) -> bool:
    """Whether tangents or a further axis go with tensors, which no custom function of ours takes."""
    if torch.compiler.is_compiling():
        return False
    kinds = {one.key() for one in retrieve_all_functorch_interpreters()}
    return bool(kinds & _CARRYING) or any(unpack_dual(one).tangent is not None for one in tensors)  # type: ignore[no-untyped-call]


class _Replayed:
    """A function with the randomness and the autocast of the moment that this was made."""

    def __init__(self, function: Callable[..., Tensor], like: Tensor) -> None:
        self.function, self.kind = function, like.device.type
        self.state, (self.devices, self.states) = torch.get_rng_state(), get_device_states(like)
        self.precision = _precision(self.kind)

    def __call__(self, *inputs: Tensor) -> Tensor:
        with torch.random.fork_rng(self.devices, device_type=self.kind if self.devices else "cuda"), self.precision():
            torch.set_rng_state(self.state)
            set_device_states(self.devices, self.states)
            return self.function(*inputs)


class _Recomputed(torch.autograd.Function):
    """The value, with a backward pass that makes its graph anew, of the values alone: nothing is counted twice.

    Where a derivative of that pass is asked for, it is such a function itself.
    """

    @staticmethod
    def forward(first: Callable[..., Any], again: Callable[..., Any], count: int, *tensors: Tensor) -> Any:
        return first(*(one.detach() for one in tensors[:count]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, ctx.again, ctx.count, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        saved, asked = ctx.saved_tensors, ctx.needs_input_grad[3:]
        inputs, weights = saved[: ctx.count], saved[ctx.count :]
        wanted = [weight for weight, ask in zip(weights, asked[ctx.count :], strict=True) if ask]
        pull = partial(_pulled, ctx.again, asked[: ctx.count], wanted)
        if torch.is_grad_enabled():  # a derivative of this one is asked for
            like = [*(one for one, ask in zip(inputs, asked, strict=False) if ask), *wanted]
            whole = partial(_whole, pull, [one.shape for one in like])
            if _is_carried(grads):
                raise NotImplementedError(
                    "expected a gradient at a time, got several by vmap (torch.func.jacrev): set checkpointed=False"
                )
            found = list(_Recomputed.apply(whole, whole, len(inputs) + len(grads), *inputs, *grads, *wanted))
        else:
            found = list(pull(*inputs, *grads))
        return None, None, None, *(found.pop(0) if ask else None for ask in asked)


def _pulled(
    function: Callable[..., Any], asked: Sequence[bool], weights: Sequence[Tensor], *tensors: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients in the inputs that are asked for and in the weights; `tensors`: the inputs, then those of the outputs."""
    inputs, grads = tensors[: len(asked)], tensors[len(asked) :]
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = [one if graph and one.requires_grad else one.detach() for one in inputs]
        leaves = [one if one.requires_grad else one.requires_grad_(ask) for one, ask in zip(leaves, asked, strict=True)]
        out = function(*leaves)
    outs = out if isinstance(out, tuple) else (out,)
    to = [*(one for one, ask in zip(leaves, asked, strict=True) if ask), *weights]
    pairs = [(one, grad) for one, grad in zip(outs, grads, strict=True) if one.requires_grad]
    if not pairs or not to:
        return (None,) * len(to)
    values, pulls = zip(*pairs, strict=True)
    return torch.autograd.grad(values, to, pulls, create_graph=graph, allow_unused=True)


def _whole(pull: Callable[..., Any], shapes: Sequence[torch.Size], *tensors: Tensor) -> tuple[Tensor, ...]:
    """What `pull` finds, and zeros where there is no gradient."""
    found = zip(pull(*tensors), shapes, strict=True)
    return tuple(tensors[0].new_zeros(shape) if one is None else one for one, shape in found)


def _precision(kind: str) -> Callable[[], AbstractContextManager[Any]]:
    """Autocast as it now is."""
    if not torch.amp.is_autocast_available(kind):
        return nullcontext
    dtype, on = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=on)
