"""CIFAR images and a ResNet-20 (He et al., 2016, in its CIFAR layout) for certify.py; noise training (Cohen et al., 2019)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustrestore as rr

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def cifar(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 32, 32] in [0, 1] and labels [N] of an npz with `images` (uint8, NHWC) and `labels`."""
    with np.load(folder / f"{name}.npz") as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]).long()
    return images.permute(0, 3, 1, 2).float() / 255, labels


def held_out(folder: Path, count: int) -> tuple[Tensor, Tensor, int]:
    """`count` test images, their labels, and how many are lossless: the 100 that are here first, then ones out of lossy JPEG.

    Those of the JPEG set that show an image of the 100 once more (a root mean squared difference below 0.07) are left out.
    """
    images, labels = cifar(folder, "lossless_test_100")
    more, others = cifar(folder, "jpeg_test_1000")
    apart = torch.cdist(more.flatten(1), images.flatten(1)).amin(1) / more[0].numel() ** 0.5
    fresh = (apart >= 0.07).nonzero()[:, 0]
    wanted = max(0, count - len(images))
    spread = fresh[torch.arange(wanted) * len(fresh) // max(1, wanted)]
    lossless = min(count, len(images))
    return torch.cat([images[:lossless], more[spread]]), torch.cat([labels[:lossless], others[spread]]), lossless


class _Block(nn.Module):
    """Two convolutions with batch norm; the shortcut is parameter-free: every second pixel, zeros for new channels."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.stride, self.more = stride, (width - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        short = x[:, :, :: self.stride, :: self.stride]
        short = F.pad(short, (0, 0, 0, 0, self.more, self.more))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + short)


class ResNet20(nn.Module):
    """16, 32, 64 channels, three blocks each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(_Block(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(_Block(16, 32, 2), _Block(32, 32, 1), _Block(32, 32, 1))
        self.layer3 = nn.Sequential(_Block(32, 64, 2), _Block(64, 64, 1), _Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean(dim=(2, 3)))


def resnet20(weights: Path) -> rr.Adapted:
    """The classifier on [0, 1] images, with pretrained weights."""
    network = ResNet20()
    rr.weights.load_weights(network, weights)
    return rr.Adapted(network.eval(), MEAN, STD).eval()


def trained_under_noise(model: rr.Adapted, data: tuple[Tensor, Tensor], sigma: float, epochs: int) -> rr.Adapted:
    """A copy fine-tuned on images under Gaussian noise, as Cohen et al. train theirs; shifts and mirrors as augmentation."""
    twin, own = ResNet20(), torch.Generator().manual_seed(0)
    twin.load_state_dict(model.model.state_dict())
    tuned = rr.Adapted(twin, MEAN, STD).train()
    images, labels = data
    steps = epochs * -(-len(images) // 128)
    optimizer = torch.optim.SGD(tuned.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=own).split(128):
            shown = F.pad(images[batch], (4, 4, 4, 4), mode="reflect")
            top, left = torch.randint(0, 9, (2,), generator=own).tolist()
            shown = shown[..., top : top + 32, left : left + 32]
            shown = shown.flip(3) if torch.rand((), generator=own) < 0.5 else shown
            loss = F.cross_entropy(tuned(shown + sigma * torch.randn(shown.shape, generator=own)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return tuned.eval()
