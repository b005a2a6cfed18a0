"""Perceptual: distance of deep features, LPIPS of Zhang et al. (2018) or that of a network of one's own."""

from collections.abc import Callable, Mapping
from dataclasses import replace as changed
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..loss import Loss
from ..modes import evaluating
from ..task import Objective
from ._images import check_restoration, difference, each, wide

TINY = 1e-8  # under the root of a length, as torchmetrics has it: an all-zero feature keeps a finite gradient


class Perceptual(Loss, nn.Module, name="perceptual"):  # type: ignore[misc]  # both have a __call__; a Loss's counts
    """Feature distance to the target (LPIPS, Zhang et al., CVPR 2018), raised, or lowered for a targeted goal.

    `features`: a module on the images' device from images [N, C, H, W] in [0, 1] to one or several feature maps [N, F, ...].
    Each position's features are brought to length 1; counted is their squared distance, summed over features, mean over
    positions and maps. None: LPIPS itself (AlexNet, learned weights) by torchmetrics; AlexNet's file has to be in torch's
    cache, as nothing is downloaded. `penalty` times the squared error is taken off, so that only features break: 25 in the
    downstream attack of Yu et al. (CVPR 2022), who took a VGG. TypeError for tasks with classes; FileNotFoundError.
    """

    def __init__(self, features: nn.Module | None = None, penalty: float = 0.0) -> None:
        super().__init__()
        if features is not None and not isinstance(features, nn.Module):
            raise TypeError(f"features: expected a torch.nn.Module or None, got {type(features).__name__}")
        if not penalty >= 0:
            raise ValueError(f"penalty: expected a weight >= 0, got {penalty}")
        self.features, self.penalty = features, float(penalty)

    def run(self, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> Objective:
        """The features of the target are kept as context."""
        check_restoration(objective, self)
        if objective.towards and self.penalty > 0:
            raise ValueError(f"penalty: expected 0 for a targeted goal, got {self.penalty}: it holds outputs at their target")
        sign, penalty, features = -1.0 if objective.towards else 1.0, self.penalty, self.features
        context: tuple[Tensor, ...] = ()
        if features is not None:
            with torch.no_grad():
                context = tuple(_unit(features, objective.target))

        def measure(outputs: Tensor, target: Tensor, *known: Tensor) -> Tensor:
            error = each(difference(outputs, target, "target").square())
            distance: Tensor
            if features is None:
                distance = _lpips(outputs.device)(wide(outputs).float(), target.float(), normalize=True).flatten()
            else:
                distance = _distance(_unit(features, outputs), known)
            return sign * distance - penalty * error

        return changed(objective, measure=measure, context=context)


def _unit(features: nn.Module, images: Tensor) -> list[Tensor]:
    """Feature maps of `images`, each position of length 1."""
    first = next(features.parameters(), None)
    with evaluating(features):
        found: Any = features(images if first is None else images.to(first.dtype))
    maps = [found] if isinstance(found, Tensor) else list(found.values()) if isinstance(found, Mapping) else list(found)
    if not maps or not all(isinstance(one, Tensor) and one.dim() >= 2 for one in maps):
        raise ValueError("features: expected one or several feature maps [N, F, ...], got something else")
    return [one / (one.square().sum(1, keepdim=True) + TINY).sqrt() for one in map(wide, maps)]


def _distance(found: list[Tensor], known: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([each((a - b).square().sum(1, keepdim=True)) for a, b in zip(found, known, strict=True)]).mean(0)


@lru_cache(maxsize=2)
def _lpips(device: torch.device) -> nn.Module:
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
        from torchvision.models import AlexNet_Weights  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError(f"Perceptual(): expected torchvision for LPIPS: install it, or pass features: {error}") from error
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: expected AlexNet's weights there, for LPIPS; nothing is downloaded: run "
            "torchvision.models.alexnet(weights='DEFAULT') once where that is allowed, or pass features=your_network"
        )
    net: nn.Module = LearnedPerceptualImagePatchSimilarity(net_type="alex").net
    return net.to(device).eval()
