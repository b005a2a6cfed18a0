"""The one small image-to-image network of ours: a U-Net without normalisation layers, at home on CPU and GPU."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    """Two 3x3 convolutions around a ReLU, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.conv2(F.relu(self.conv1(features)))
        return features + out


Make = Callable[[int], nn.Module]


class UNetBody(nn.Module):
    """Three-scale residual U-Net on pixel-unshuffled input (the FFDNet idea of Zhang, Zuo and Zhang, 2018).

    Works at 1/2, 1/4 and 1/8 of the input resolution, so height and width must be divisible by `multiple` = 8; `middle`
    residual blocks at the coarsest. The last convolution starts at zero: an untrained network returns zeros. `block` makes a
    block of a width; by default two 3x3 convolutions around a ReLU, added to the input.

    Shapes: [N, inputs, H, W] and optionally a map [N, maps, H/2, W/2] (or 1 x 1) -> [N, outputs, H, W].
    """

    multiple = 8

    def __init__(
        self, inputs: int = 3, outputs: int = 3, width: int = 32, maps: int = 0, middle: int = 3, block: Make = _Block
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.stem = nn.Conv2d(4 * inputs + maps, width, 3, padding=1)
        self.down1 = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.down2 = nn.Conv2d(2 * width, 4 * width, 2, stride=2)
        self.encode1, self.encode2 = _row(2, width, block), _row(2, 2 * width, block)
        self.middle = _row(middle, 4 * width, block)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.decode2, self.decode1 = _row(2, 2 * width, block), _row(2, width, block)
        self.head = nn.Conv2d(width, 4 * outputs, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, maps: Tensor | None = None) -> Tensor:
        """The network's images; `maps` are concatenated to the input at half resolution."""
        if images.shape[1] != self.inputs:
            grey = " (grey images: images.expand(-1, 3, -1, -1))" if images.shape[1] == 1 and self.inputs == 3 else ""
            raise ValueError(f"images: expected {self.inputs} channels, got {images.shape[1]}: convert them first{grey}")
        features = F.pixel_unshuffle(images, 2)
        if maps is not None:
            features = torch.cat([features, maps.expand(-1, -1, *features.shape[2:])], dim=1)
        fine = self.encode1(self.stem(features))
        middle = self.encode2(self.down1(fine))
        coarse = self.middle(self.down2(middle))
        middle = self.decode2(self.up2(coarse) + middle)
        fine = self.decode1(self.up1(middle) + fine)
        return F.pixel_shuffle(self.head(fine), 2)


def _row(count: int, width: int, block: Make) -> nn.Sequential:
    return nn.Sequential(*(block(width) for _ in range(count)))
