"""How guidance looks at a network: frozen, in evaluation mode, one hidden layer beside its outputs."""

from typing import Any

import torch
from torch import Tensor, nn

from ..attack import one_tensor
from ..modes import evaluating, recorded
from ..replicas import named_weights_of

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def frozen(network: nn.Module, *inputs: Any) -> Any:
    """The network's answer in evaluation mode; gradients reach the inputs and never its weights."""
    weights = named_weights_of(network)
    with evaluating(network):
        copies = recorded(network)
        if not copies and not any(weight.requires_grad for weight in weights.values()):
            return network(*inputs)
        fixed = {**{name: weight.detach() for name, weight in weights.items()}, **copies}
        return torch.func.functional_call(network, fixed, inputs)


def wide(values: Tensor) -> Tensor:
    """In float32 or finer."""
    return values if values.dtype.itemsize > 4 else values.float()


def check_layer(network: nn.Module, layer: str | None) -> None:
    """Raise unless `layer` names a module, or, where it is None, there is a last linear layer or convolution to look for."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"network: expected a torch.nn.Module, got {type(network).__name__}")
    known = [name for name, _ in network.named_modules() if name]
    if layer is None and not any(isinstance(part, LAYERS) for part in network.modules()):
        raise ValueError("layer: expected the name of a module, got None and no linear layer or convolution to look for")
    if layer and layer not in known:
        raise ValueError(f"layer: expected one of {known}, got {layer!r}: see named_modules()")


def read(network: nn.Module, images: Tensor, layer: str | None) -> tuple[Tensor, Tensor]:
    """The latent [N, F, ...] and the outputs [N, C, ...] for `images`, in float32 or finer.

    The latent is what the module `layer` answers (the last time that it runs), the network's outputs for "", and for None
    the penultimate features: what the last linear layer or convolution to run is handed.
    """
    seen: list[Any] = []

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[:] = inputs[:1]

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        seen[:] = [output]

    if layer is None:
        hooks = [part.register_forward_pre_hook(before) for part in network.modules() if isinstance(part, LAYERS)]
    else:
        hooks = [network.get_submodule(layer).register_forward_hook(after)] if layer else []
    first = next(network.parameters(), images)
    try:
        outputs = one_tensor(frozen(network, images.to(first.dtype)))
    finally:
        for hook in hooks:
            hook.remove()
    latent = outputs if layer == "" else seen[0] if seen else None
    return _checked(latent, "layer", len(images)), _checked(outputs, "network", len(images))


def _checked(found: Any, what: str, count: int) -> Tensor:
    if isinstance(found, Tensor) and found.dim() >= 2 and len(found) == count:
        return wide(found)
    got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
    raise ValueError(f"{what}: expected one tensor [{count}, F, ...], got {got}")
