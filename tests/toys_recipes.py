"""Trainings of defences small enough for tests: rainy toy streets, a segmenter of three classes, a derain network."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from toys import photos

import robustrestore as rr

TASK = rr.tasks.Segmentation()
ATTACK = rr.attacks.NAA(rr.Linf(8 / 255), steps=2, seed=None)
PLAN = rr.Plan(steps=4, batch=4, optimiser=rr.AdamW(lr=0.01), average=None)


class Streets(Dataset[dict[str, Tensor]]):
    """Smooth images with streaks; labels: the brightest channel, a border of ignored pixels. A slice is a batch."""

    def __init__(self, count: int = 8) -> None:
        self.clean = photos(count, 16, 16)
        own = torch.Generator().manual_seed(2)
        streaks = 0.25 * (torch.rand(count, 1, 1, 16, generator=own) > 0.7)
        self.images = (self.clean + streaks).clamp(0, 1)
        self.target = self.clean.argmax(1)
        self.target[:, :1] = 255

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, place: int | slice) -> dict[str, Tensor]:
        return {"images": self.images[place], "target": self.target[place], "clean": self.clean[place]}


def streets(count: int = 8) -> Streets:
    return Streets(count)


def segmenter(seed: int = 0) -> nn.Module:
    """Three classes, with batch statistics: nearly the channels themselves, so that it is right without training."""
    with rr.seeded(seed):
        network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
    with torch.no_grad():
        network[0].weight.mul_(0.3)[range(3), range(3), 1, 1] += 8.0
    return network.eval()


def rainproof(seed: int = 0) -> rr.DefendedPipeline:
    """A purifier with weights, a small derain network that does something from the start, the segmenter."""
    with rr.seeded(seed):
        purifier, derain = rr.purifiers.Denoise(rr.diffusion.SigmaUNet(width=4), sigma=0.02), rr.restorers.UNet(width=4)
        nn.init.normal_(derain.body.head.weight, std=0.02)
    return rr.DefendedPipeline(segmenter(seed), [purifier, derain])
