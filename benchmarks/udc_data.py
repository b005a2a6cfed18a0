"""Pairs for cameras behind a display: photographs with highlights, simulated displays, split by scene and by display."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import TensorDataset

import robustrestore as rr
from robustrestore.degradations import POLED, UnderDisplay

DISPLAYS = 7  # 5 for training, one for choosing settings, one for testing
SHARE = 0.9  # of the light stays in place: a mild display


class Pairs(NamedTuple):
    """What the camera saw, rounded to 8 bits, and the scene: [N, 3, H, W] each."""

    images: Tensor
    target: Tensor

    def batches(self, count: int, device: str, size: int = 8) -> list[tuple[Tensor, Tensor]]:
        """The first `count` of them, on a device."""
        parts = (whole[:count].to(device).split(size) for whole in (self.images, self.target))
        return list(zip(*parts, strict=True))

    def crops(self, size: int) -> rr.data.Crops:
        """For `fit`: random crops. No flips: a display has a direction."""
        return rr.data.Crops(TensorDataset(self.images, self.target), (size, size))


def _windows(degraded: rr.data.Degraded, size: int, limit: int | None) -> Pairs:
    """One window of each item, at a place that depends on the item alone."""
    views = rr.data.Crops(degraded, (size, size))
    found = []
    for k in range(len(views) if limit is None else min(limit, len(views))):
        with rr.seeded(k):
            found.append(views[k])
    seen = torch.stack([one["images"] for one in found])
    return Pairs((seen * 255).round() / 255, torch.stack([one["target"] for one in found]))


def pairs(
    photographs: Path, folder: Path, displays: list[Any], window: int, view: int, limits: tuple[int, int]
) -> dict[str, Pairs]:
    """ "train", "choose" and "test", with neither a photograph nor a display in common; kept in `folder`.

    `window`, `view`: sides of the windows for training and of the others. `limits`: how many of "choose" and "test".
    """
    names = ("train", "choose", "test")
    files = {name: folder / f"{name}.safetensors" for name in names}
    if not all(file.is_file() for file in files.values()):
        scenes = rr.data.Scenes(rr.data.ImageFolder(photographs))
        rest, test = rr.data.Degraded.split(scenes, displays)
        train, choose = rr.data.Degraded.split(rest.dataset, rest.degradations)
        folder.mkdir(parents=True, exist_ok=True)
        made = _windows(train, window, None), _windows(choose, view, limits[0]), _windows(test, view, limits[1])
        for file, one in zip(files.values(), made, strict=True):
            save_file({"images": one.images.contiguous(), "target": one.target.contiguous()}, file)
    return {name: Pairs(**load_file(file)) for name, file in files.items()}


def displays(size: int = 293, count: int = DISPLAYS) -> list[Any]:
    """Simulated ones, each another."""
    return [UnderDisplay(POLED(size, SHARE, seed)) for seed in range(count)]
