"""Replicas: what `torch.nn.DataParallel` makes of a module on each device. Their weights are no parameters any more."""

from typing import Any

from torch import Tensor, nn


def is_replica(module: nn.Module) -> bool:
    """Whether the module is one."""
    return bool(vars(module).get("_is_replica", False))


def former(module: nn.Module) -> dict[str, Tensor]:
    """What is left of the parameters of a replica itself: tensors with a graph that leads to the originals."""
    kept: dict[str, Any] = vars(module).get("_former_parameters", {})
    return dict(kept)


def weights_of(module: nn.Module) -> list[Tensor]:
    """The parameters of a module, those of a replica too, each once."""
    found: list[Tensor] = list(module.parameters())
    if is_replica(module):
        found += [weight for part in module.modules() for weight in former(part).values()]
    return list({id(weight): weight for weight in found}.values())


def named_weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module, those of a replica too, by name."""
    found: dict[str, Tensor] = dict(module.named_parameters())
    if is_replica(module):
        for path, part in module.named_modules():
            found |= {f"{path}.{name}".lstrip("."): weight for name, weight in former(part).items()}
    return found
