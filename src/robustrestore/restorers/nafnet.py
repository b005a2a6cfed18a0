"""NAFNet (Chen et al., 2022): a U-Net without activation functions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..stage import Restorer


class LayerNorm2d(nn.Module):
    """Normalisation over the channels of each pixel (Ba, Kiros and Hinton, 2016), as NAFNet uses it."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)), eps

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] -> the same."""
        last = features.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


def _gate(features: Tensor) -> Tensor:
    """SimpleGate: one half of the channels times the other."""
    one, other = features.chunk(2, dim=1)
    return one * other


class NAFBlock(nn.Module):
    """NAFNet's block (Chen et al., 2022): SimpleGate and simplified channel attention, then a gated pair of 1x1 convolutions.

    Both steps are scaled by `beta` and `gamma`, which start at zero: a new block is the identity.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm2d(width), LayerNorm2d(width)
        self.conv1 = nn.Conv2d(width, 2 * width, 1)
        self.conv2 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1))
        self.conv3, self.conv5 = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.conv4 = nn.Conv2d(width, 2 * width, 1)
        self.beta, self.gamma = (nn.Parameter(torch.zeros(1, width, 1, 1)) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] -> the same."""
        gated = _gate(self.conv2(self.conv1(self.norm1(features))))
        features = features + self.beta * self.conv3(gated * self.sca(gated))
        mixed: Tensor = self.conv5(_gate(self.conv4(self.norm2(features))))
        return features + self.gamma * mixed


class NAFNet(Restorer, name="nafnet"):
    """NAFNet (Chen et al., 2022), small by default: 0.4 million weights. Untrained it is the identity.

    `encoder`, `middle`, `decoder`: blocks at each resolution; encoder and decoder equally long, one halving each. The
    published networks have a width of 32 or 64, encoder [1, 1, 1, 28] or [2, 2, 4, 8], and parts of these names. Channel
    attention looks at the whole image, so one trained on crops meets other statistics on large images: tile those.
    """

    def __init__(
        self,
        width: int = 16,
        encoder: Sequence[int] = (1, 1, 2),
        middle: int = 2,
        decoder: Sequence[int] = (1, 1, 1),
        channels: int = 3,
    ) -> None:
        super().__init__()
        if len(encoder) != len(decoder) or min([*encoder, *decoder, middle], default=0) < 0:
            raise ValueError(f"expected as many counts >= 0 in encoder and decoder, got {list(encoder)} and {list(decoder)}")
        self.width, self.encoder, self.middle, self.decoder = width, list(encoder), middle, list(decoder)
        self.channels, self.multiple = channels, 2 ** len(encoder)
        widths = [width * 2**k for k in range(len(encoder) + 1)]
        self.intro, self.ending = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, channels, 3, padding=1)
        self.encoders = nn.ModuleList(_blocks(count, w) for count, w in zip(encoder, widths, strict=False))
        self.downs = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, stride=2) for w in widths[:-1])
        self.middle_blks = _blocks(middle, widths[-1])
        self.ups = nn.ModuleList(_up(w) for w in widths[:0:-1])
        self.decoders = nn.ModuleList(_blocks(count, w) for count, w in zip(decoder, widths[-2::-1], strict=True))
        for weight in self.ending.parameters():
            nn.init.zeros_(weight)

    def run(self, images: Tensor) -> Tensor:
        """Input plus correction."""
        if images.shape[1] != self.channels:
            raise ValueError(f"images: expected {self.channels} channels, got {images.shape[1]}: convert them first")
        features, kept = self.intro(images), []
        for encode, down in zip(self.encoders, self.downs, strict=True):
            kept.append(encode(features))
            features = down(kept[-1])
        features = self.middle_blks(features)
        for up, decode in zip(self.ups, self.decoders, strict=True):
            features = decode(up(features) + kept.pop())
        correction: Tensor = self.ending(features)
        return images + correction


def _blocks(count: int, width: int) -> nn.Sequential:
    return nn.Sequential(*(NAFBlock(width) for _ in range(count)))


def _up(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), nn.PixelShuffle(2))
