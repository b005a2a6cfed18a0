"""A small DDPM for MNIST digits that we neither made nor trained, rebuilt so that its published weights load.

A U-Net of 10, 20 and 40 channels whose blocks normalise over whole feature maps (LayerNorm), so it knows 28 x 28 alone.
The very last block does not normalise, though the file holds weights for it: with them the noise is off by far.
It predicts the noise, for 1000 timesteps with betas from 1e-4 to 0.02; the timestep is an index into a table.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

import robustrestore as rr

TIMESTEPS, WIDTH = 1000, 100  # rows of the table, and their length


class Block(nn.Module):
    """Layer normalisation over [C, H, W] unless `plain`, then two 3 x 3 convolutions with SiLU."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        self.plain = False
        self.ln = nn.LayerNorm((inputs, side, side))
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        normal = features if self.plain else self.ln(features)
        out: Tensor = nn.functional.silu(self.conv2(nn.functional.silu(self.conv1(normal))))
        return out


def _blocks(widths: Sequence[int], side: int) -> nn.Sequential:
    return nn.Sequential(*(Block(a, b, side) for a, b in pairwise(widths)))


def _told(channels: int) -> nn.Sequential:
    """What a level of the U-Net adds to its features for a timestep."""
    return nn.Sequential(nn.Linear(WIDTH, channels), nn.SiLU(), nn.Linear(channels, channels))


class UNet(nn.Module):
    """Noisy digits [N, 1, 28, 28] in the [-1, 1] convention and timesteps [N] to the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.time_embed = nn.Embedding(TIMESTEPS, WIDTH)
        self.te1, self.te2, self.te3, self.te_mid = _told(1), _told(10), _told(20), _told(40)
        self.te4, self.te5, self.te_out = _told(80), _told(40), _told(20)
        self.b1, self.down1 = _blocks([1, 10, 10, 10], 28), nn.Conv2d(10, 10, 4, 2, 1)
        self.b2, self.down2 = _blocks([10, 20, 20, 20], 14), nn.Conv2d(20, 20, 4, 2, 1)
        self.b3 = _blocks([20, 40, 40, 40], 7)
        self.down3 = nn.Sequential(nn.Conv2d(40, 40, 2, 1), nn.SiLU(), nn.Conv2d(40, 40, 4, 2, 1))
        self.b_mid = _blocks([40, 20, 20, 40], 3)
        self.up1 = nn.Sequential(nn.ConvTranspose2d(40, 40, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(40, 40, 2, 1))
        self.b4, self.up2 = _blocks([80, 40, 20, 20], 7), nn.ConvTranspose2d(20, 20, 4, 2, 1)
        self.b5, self.up3 = _blocks([40, 20, 10, 10], 14), nn.ConvTranspose2d(10, 10, 4, 2, 1)
        self.b_out, self.conv_out = _blocks([20, 10, 10, 10], 28), nn.Conv2d(10, 1, 3, padding=1)
        self.b_out[-1].plain = True

    def forward(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        time = self.time_embed(timestep)

        def at(part: nn.Module) -> Tensor:
            found: Tensor = part(time)[..., None, None]
            return found

        one = self.b1(noisy + at(self.te1))
        two = self.b2(self.down1(one) + at(self.te2))
        three = self.b3(self.down2(two) + at(self.te3))
        middle = self.b_mid(self.down3(three) + at(self.te_mid))
        up = self.b4(torch.cat([three, self.up1(middle)], 1) + at(self.te4))
        up = self.b5(torch.cat([two, self.up2(up)], 1) + at(self.te5))
        up = self.b_out(torch.cat([one, self.up3(up)], 1) + at(self.te_out))
        noise: Tensor = self.conv_out(up)
        return noise


def load(weights: str | Path) -> rr.diffusion.DiscreteTime:
    """The published network as a denoiser of [0, 1] digits, in eval mode, frozen; levels go to the nearest timestep."""
    found = torch.load(weights, map_location="cpu", weights_only=True)
    network = UNet()
    network.load_state_dict({name.removeprefix("network."): value for name, value in found.items()})
    return rr.diffusion.DiscreteTime(network.eval().requires_grad_(False), rounded=True)
