"""Classifiers of timm and torchvision by name, as models of [0, 1] images."""

from pathlib import Path
from typing import Any

import torch

from ..adapt import Adapted
from ..weights import load_weights


def timm(name: str, weights: str | Path | None = None) -> Adapted:
    """The model of that name in timm (Wightman, 2019), with its published weights or those of a file; normalised as it says.

    ImportError without timm; LookupError for an unknown name; ValueError where the published weights cannot be fetched.
    """
    try:
        import timm as library
    except ImportError as error:
        raise ImportError(f"timm:{name} needs timm: pip install timm") from error
    if not library.is_model(name):
        near = library.list_models(f"*{name.split('_')[0]}*")[:5]
        raise LookupError(f"timm:{name}: expected a model that timm has, such as {', '.join(near) or 'resnet18'}")
    network = _made(f"timm:{name}", lambda: library.create_model(name, pretrained=weights is None), weights)
    known: dict[str, Any] = network.pretrained_cfg
    return Adapted(network, mean=list(known["mean"]), std=list(known["std"])).eval()


def torchvision(name: str, weights: str | Path | None = None) -> Adapted:
    """The classifier of that name in torchvision, with its default weights or those of a file; ImageNet normalisation.

    ImportError without torchvision; LookupError for an unknown name; ValueError where the weights cannot be fetched.
    """
    try:
        from torchvision import models  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(f"torchvision:{name} needs torchvision: pip install torchvision") from error
    known = models.list_models(module=models)
    if name not in known:
        raise LookupError(f"torchvision:{name}: expected a classifier that torchvision has, such as {', '.join(known[:5])}")
    default = "DEFAULT" if weights is None else None
    network = _made(f"torchvision:{name}", lambda: models.get_model(name, weights=default), weights)
    return Adapted(network, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]).eval()


def _made(text: str, make: Any, weights: str | Path | None) -> Any:
    try:
        network: torch.nn.Module = make()
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{text}: expected its published weights, got none: fetch them on a machine with a network and give them as "
            f"{text},FILE ({error})"
        ) from error
    if weights is not None:
        load_weights(network, weights)
    return network
