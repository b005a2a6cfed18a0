"""Networks and images for the tests of guidance."""

import torch
from torch import Tensor, nn

from robustrestore import guidances


class LinearNet(nn.Module):
    """Linear latent h(x) = W x of 5 features, then 3 linear scores: the gradient of a distance has a closed form."""

    def __init__(self, channels: int = 3, size: int = 6) -> None:
        super().__init__()
        own = torch.Generator().manual_seed(2)
        self.body = nn.Linear(channels * size * size, 5)
        self.head = nn.Linear(5, 3)
        for part in (self.body, self.head):
            part.weight.data = torch.randn(part.weight.shape, generator=own) * 0.3
            part.bias.data = torch.randn(part.bias.shape, generator=own) * 0.1

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images.flatten(1)))


class SmoothNet(nn.Module):
    """A smooth classifier with batch norm and dropout, pooled features, 4 classes, or a segmenter where `pixels`."""

    def __init__(self, channels: int = 3, pixels: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(17)
            self.conv = nn.Conv2d(channels, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.drop = nn.Dropout(0.5)
            self.head = nn.Conv2d(6, 4, 1)
        self.norm.running_mean.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
        self.pixels = pixels

    def forward(self, images: Tensor) -> Tensor:
        features = self.drop(torch.tanh(self.norm(self.conv(images))))
        scores = self.head(features if self.pixels else features.mean((2, 3), keepdim=True))
        return 4 * scores if self.pixels else 4 * scores.flatten(1)


def small(count: int = 2, size: int = 6, seed: int = 0) -> Tensor:
    """Random images in [0.2, 0.8], float64."""
    own = torch.Generator().manual_seed(seed)
    return 0.2 + 0.6 * torch.rand(count, 3, size, size, generator=own, dtype=torch.float64)


def frozen_net(pixels: bool = False) -> nn.Module:
    return SmoothNet(pixels=pixels).double().requires_grad_(False)


LIKELIHOODS = {
    "pixel": lambda: guidances.PixelGuidance(strength=20.0),
    "pixel renoised": lambda: guidances.PixelGuidance(strength=5.0, power=0.0, reference=guidances.Renoised(seed=3)),
    "ssim": lambda: guidances.SSIMGuidance(strength=0.5),
    "features": lambda: guidances.AGDM(frozen_net(), strength=3000.0, class_weight=0.0),
    "features of a layer": lambda: guidances.AGDM(frozen_net(), strength=3.0, layer="conv", class_weight=0.0),
    "scores": lambda: guidances.AGDM(frozen_net(), strength=1000.0, layer="", class_weight=0.0),
    "class of input": lambda: guidances.AGDM(frozen_net(), strength=20.0, feature_weight=0.0),
    "class of noisy": lambda: guidances.AGDM(frozen_net(), 20.0, feature_weight=0.0, label=guidances.LabelOfNoisy()),
    "any class": lambda: guidances.AGDM(frozen_net(), 20.0, feature_weight=0.0, label=guidances.AnyLabel()),
    "both, renoised": lambda: guidances.AGDM(frozen_net(), 50.0, feature_weight=50.0, reference=guidances.Renoised(seed=2)),
    "segmenter": lambda: guidances.AGDM(frozen_net(pixels=True), strength=3.0),
}
