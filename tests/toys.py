"""Models with known answers, shared by tests."""

import torch
from torch import Tensor, nn


class Linear2(nn.Module):
    """Two-class linear classifier on images; logits (w x, -w x). The best Linf attack is -eps sign(w) for class 0."""

    def __init__(self, channels: int = 3, size: int = 6) -> None:
        super().__init__()
        own = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(channels, size, size, generator=own))

    def forward(self, images: Tensor) -> Tensor:
        score = ((images - 0.5) * self.weight).flatten(1).sum(1)
        return torch.stack([score, -score], dim=1)


class PixelSegmenter(nn.Module):
    """Logits 8 (x_r - x_g), -8 (x_r - x_g): class 0 where red exceeds green; 1 x 1, so pixels are independent."""

    def forward(self, images: Tensor) -> Tensor:
        score = 8 * (images[:, 0] - images[:, 1])
        return torch.stack([score, -score], dim=1)


class Gain(nn.Module):
    """A restorer that multiplies by a constant."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.gain


class Moody(nn.Module):
    """A small network with batch norm and dropout whose sub-modules stand in different modes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(13)
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.drop = nn.Dropout(0.5)
            self.head = nn.Conv2d(4, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.conv(images)))))


def photos(count: int = 2, height: int = 16, width: int = 20) -> Tensor:
    """Smooth random images in [0.1, 0.9], away from the box, always the same."""
    own = torch.Generator().manual_seed(11)
    coarse = torch.rand(count, 3, 4, 4, generator=own) * 0.8 + 0.1
    return nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
