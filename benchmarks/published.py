"""Published classifiers that we neither made nor trained, rebuilt so that their weights load, and the images they know."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustrestore as rr

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class LeNet5(nn.Module):
    """Two convolutions, two linear layers, for 28 x 28 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.linear1, self.linear2 = nn.Linear(3136, 200), nn.Linear(200, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = F.max_pool2d(F.relu(self.conv1(images)), 2)
        features = F.max_pool2d(F.relu(self.conv2(features)), 2)
        return self.linear2(F.relu(self.linear1(features.flatten(1))))


class Block(nn.Module):
    """Two 3 x 3 convolutions; where the size changes, a shortcut of every second pixel and zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, features: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(features)))))
        short = features[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(short, (0, 0, 0, 0, self.more // 2, self.more // 2)))


class CifarResNet(nn.Module):
    """ResNet of 6 n + 2 layers for 32 x 32 images (He et al., 2016)."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        sizes = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        stages = [
            nn.Sequential(*(Block(a if k == 0 else b, b, stride if k == 0 else 1) for k in range(blocks)))
            for a, b, stride in sizes
        ]
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(images))))))
        return self.linear(features.mean((2, 3)))


def _weights(path: Path) -> dict[str, Tensor]:
    found = torch.load(path, map_location="cpu", weights_only=True)
    found = found.get("state_dict", found)
    return {name.removeprefix("module."): value for name, value in found.items()}


def lenet5(weights: Path) -> nn.Module:
    """[0, 1] digits [N, 1, 28, 28]."""
    model = LeNet5()
    model.load_state_dict(_weights(weights))
    return model.eval()


def resnet20(weights: Path) -> nn.Module:
    """[0, 1] images [N, 3, 32, 32]."""
    model = CifarResNet()
    model.load_state_dict(_weights(weights))
    return rr.Adapted(model, *IMAGENET).eval()


def robust_cnn(weights: Path) -> nn.Module:
    """Adversarially trained at 2/255; [0, 1] images [N, 3, 32, 32]."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    state = _weights(weights)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    return rr.Adapted(model, IMAGENET[0], (0.225, 0.225, 0.225)).eval()


def images(file: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first [0, 1] images [N, C, H, W] and labels of an npz file."""
    with np.load(file) as found:
        pixels, labels = found["images"][:count], found["labels"][:count]
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels).long()


def cases(data: Path) -> dict[str, tuple[nn.Module, Tensor, Tensor, float]]:
    """Model, images, labels and eps by name; `data` is the folder that holds cifar10, mnist and weights."""
    digits = images(data / "mnist" / "test_first5000.npz", 500)
    pictures = images(data / "cifar10" / "lossless_test_100.npz", 100)
    weights = data / "weights"
    return {
        "LeNet5, MNIST": (lenet5(weights / "mnist_lenet5_clean.pt"), *digits, 0.3),
        "LeNet5 adversarially trained, MNIST": (lenet5(weights / "mnist_lenet5_adv.pt"), *digits, 0.3),
        "ResNet-20, CIFAR-10": (resnet20(weights / "resnet20_cifar10.th"), *pictures, 8 / 255),
        "CNN adversarially trained at 2/255, CIFAR-10": (robust_cnn(weights / "cifar_cnn_a_adv.pth"), *pictures, 2 / 255),
        "the same at 8/255": (robust_cnn(weights / "cifar_cnn_a_adv.pth"), *pictures, 8 / 255),
    }
