"""ESPNet (Mehta et al., ECCV 2018), rebuilt so that the published CamVid weights load: the segmenter under attack.

The network wants BGR pixels in 0..255, minus `MEAN_BGR`, over `STD_BGR`, and then over 255 once more. For [0, 1]
images that is `(image[:, [2, 1, 0]] - MEAN_BGR / 255) / STD_BGR`: the deviation stays in 0..255 units.
The classes come in the order of our CamVid labels, 0 sky .. 10 bicyclist, 11 void (measured: no permutation needed).
"""

from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn

MEAN_BGR = (110.3, 108.4, 105.0)
STD_BGR = (72.1, 72.7, 69.9)
STRIDE = 8
EPS = 1e-3  # of the batch norms; with the PyTorch default, 1e-5, the published weights give noise


class Plain(nn.Module):
    """A convolution that keeps the size (stride 1) or halves it (stride 2)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.conv(features)
        return out


class Activation(nn.Module):
    """Batch normalisation, then a PReLU with one slope per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=EPS)
        self.act = nn.PReLU(channels)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(features))
        return out


class Activated(nn.Module):
    """A 3x3 convolution, batch normalisation and PReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=EPS)
        self.act = nn.PReLU(outputs)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(self.conv(features)))
        return out


class Pyramid(nn.Module):
    """The ESP idea: reduce the channels, look at five dilations, fuse them by running sums (against gridding)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        narrow = outputs // 5
        self.c1 = Plain(inputs, narrow, kernel, stride)
        self.d1 = Plain(narrow, outputs - 4 * narrow, 3)
        self.d2 = Plain(narrow, narrow, 3, dilation=2)
        self.d4 = Plain(narrow, narrow, 3, dilation=4)
        self.d8 = Plain(narrow, narrow, 3, dilation=8)
        self.d16 = Plain(narrow, narrow, 3, dilation=16)

    def fused(self, features: Tensor) -> Tensor:
        reduced = self.c1(features)
        dilated = (branch(reduced) for branch in (self.d2, self.d4, self.d8, self.d16))
        return torch.cat([self.d1(reduced), *accumulate(dilated)], dim=1)


class Down(Pyramid):
    """The ESP block that halves the size: [N, inputs, H, W] -> [N, outputs, H / 2, W / 2]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel=3, stride=2)
        self.bn = nn.BatchNorm2d(outputs, eps=EPS)
        self.act = nn.PReLU(outputs)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(self.fused(features)))
        return out


class Same(Pyramid):
    """The ESP block that keeps the size; with equal channels it adds its input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel=1, stride=1)
        self.residual = inputs == outputs
        self.bn = Activation(outputs)

    def forward(self, features: Tensor) -> Tensor:
        fused = self.fused(features)
        out: Tensor = self.bn(features + fused if self.residual else fused)
        return out


class Encoder(nn.Module):
    """Three levels at 1/2, 1/4 and 1/8; the small image joins the first two: [N, 3, H, W] -> 19, 131, 256 channels."""

    def __init__(self, classes: int, p: int, q: int) -> None:
        super().__init__()
        self.halve = nn.AvgPool2d(3, stride=2, padding=1)
        self.level1 = Activated(3, 16, stride=2)
        self.b1 = Activation(16 + 3)
        self.level2_0 = Down(16 + 3, 64)
        self.level2 = nn.ModuleList(Same(64, 64) for _ in range(p))
        self.b2 = Activation(64 + 64 + 3)
        self.level3_0 = Down(64 + 64 + 3, 128)
        self.level3 = nn.ModuleList(Same(128, 128) for _ in range(q))
        self.b3 = Activation(128 + 128)
        self.classifier = Plain(128 + 128, classes, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        half = self.halve(images)
        fine = self.b1(torch.cat([self.level1(images), half], dim=1))
        middle = first = self.level2_0(fine)
        for block in self.level2:
            middle = block(middle)
        middle = self.b2(torch.cat([middle, first, self.halve(half)], dim=1))
        coarse = first = self.level3_0(middle)
        for block in self.level3:
            coarse = block(coarse)
        return fine, middle, self.b3(torch.cat([first, coarse], dim=1))


class ESPNet(nn.Module):
    """ESPNet (Mehta et al., ECCV 2018): normalised BGR [N, 3, H, W] -> logits [N, classes, H, W].

    `p` and `q` count the blocks at 1/4 and 1/8 of the size. It takes 5 classes or more, since its last ESP block
    gives each branch a fifth of them, and H and W that are multiples of 8 (ValueError).
    """

    def __init__(self, classes: int = 12, p: int = 2, q: int = 8) -> None:
        super().__init__()
        if classes < 5:
            raise ValueError(f"expected 5 classes or more, got {classes}: the decoder splits them over five branches")
        self.encoder = Encoder(classes, p, q)
        self.br = nn.BatchNorm2d(classes, eps=EPS)
        self.up_l3 = nn.Sequential(nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False))
        self.level3_C = Plain(64 + 64 + 3, classes, 1)
        self.combine_l2_l3 = nn.Sequential(Activation(2 * classes), Same(2 * classes, classes))
        self.up_l2 = nn.Sequential(nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False), Activation(classes))
        self.conv = Activated(16 + 3 + classes, classes)
        self.classifier = nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height % STRIDE or width % STRIDE:
            raise ValueError(f"expected sides that are multiples of {STRIDE}, got {height}x{width}: pad the images")
        fine, middle, coarse = self.encoder(images)
        coarse = self.up_l3(self.br(self.encoder.classifier(coarse)))
        middle = self.up_l2(self.combine_l2_l3(torch.cat([self.level3_C(middle), coarse], dim=1)))
        logits: Tensor = self.classifier(self.conv(torch.cat([middle, fine], dim=1)))
        return logits


def load(path: str | Path) -> nn.Module:
    """The 12-class CamVid network from a published state dict, in eval mode."""
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network = ESPNet()
    network.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
    return network.eval()
