"""FFDNet (Zhang, Zuo and Zhang, 2018), rebuilt so that the published colour weights load: the denoiser to compare with."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F


class FFDNet(nn.Module):
    """12 convolutions of 96 channels at half resolution, the level as a map: ([N, 3, H, W], sigma) -> clean image."""

    def __init__(self, channels: int = 3, width: int = 96, depth: int = 12) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(4 * channels + 1, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Conv2d(width, 4 * channels, 3, padding=1))

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        height, width = noisy.shape[-2:]
        small = F.pixel_unshuffle(F.pad(noisy, (0, width % 2, 0, height % 2), mode="replicate"), 2)
        level = sigma.view(-1, 1, 1, 1).expand(len(small), 1, *small.shape[-2:])
        return F.pixel_shuffle(self.model(torch.cat([small, level], dim=1)), 2)[..., :height, :width]


def load(path: str | Path) -> FFDNet:
    """The colour network from its published weights, in eval mode."""
    network = FFDNet()
    network.load_state_dict(load_file(path))
    return network.eval()
