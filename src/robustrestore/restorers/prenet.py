"""PReNet (Ren et al., 2019): one small network that derains an image again and again, with a memory; and two variants."""

from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modes import seeded
from ..stage import Restorer
from ..weights import load_weights

_BLOCKS = 5


def _conv(inputs: int, outputs: int, *after: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), *after)


class Progressive(Restorer):
    """What the variants share: `recursions` rounds over (input, estimate), each adding a correction to the input.

    Parts are named as in the published weight files. The last convolution starts at zero, so an untrained one is the identity.
    A gradient passes every round: an attack on 6 of them costs as much as one on a network six times as deep.
    """

    memory: ClassVar[bool] = True  # a convolutional LSTM carries features from round to round
    shared: ClassVar[bool] = False  # one residual block stands for all five

    def __init__(self, recursions: int = 6, width: int = 32) -> None:
        super().__init__()
        if recursions < 1:
            raise ValueError(f"recursions: expected a whole number >= 1, got {recursions}")
        self.recursions, self.width = recursions, width
        self.conv0 = _conv(6, width, nn.ReLU())
        for k in range(1 if self.shared else _BLOCKS):
            block = _conv(width, width, nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
            self.add_module(f"res_conv{k + 1}", block)
        for gate in "ifgo" if self.memory else "":
            self.add_module(f"conv_{gate}", _conv(2 * width, width, nn.Tanh() if gate == "g" else nn.Sigmoid()))
        self.conv = _conv(width, 3)
        for weight in self.conv.parameters():
            nn.init.zeros_(weight)

    @classmethod
    def from_published(cls, file: str | Path) -> Self:
        """With the weights of a file as the authors publish them (.pth, tensors alone), frozen, in evaluation mode.

        Raises ValueError that names what is missing, unknown or of another shape: a file of another variant, say.
        """
        with seeded(0):  # initial weights are drawn, and then replaced
            restorer = cls()
        load_weights(restorer, file)
        return restorer.requires_grad_(False).eval()

    def run(self, images: Tensor) -> Tensor:
        """The last round's estimate."""
        if images.shape[1] != 3:
            raise ValueError(f"images: expected 3 channels, got {images.shape[1]}: grey images: images.expand(-1, 3, -1, -1)")
        estimate = images
        hidden = cell = images.new_zeros(len(images), self.width, *images.shape[2:])
        for _ in range(self.recursions):
            features: Tensor = self.conv0(torch.cat([images, estimate], dim=1))
            if self.memory:
                seen = torch.cat([features, hidden], dim=1)
                i, f, g, o = (self.get_submodule(f"conv_{gate}")(seen) for gate in "ifgo")
                cell = f * cell + i * g
                features = hidden = o * torch.tanh(cell)
            for k in range(_BLOCKS):
                block = self.get_submodule("res_conv1" if self.shared else f"res_conv{k + 1}")
                features = F.relu(block(features) + features)
            estimate = images + self.conv(features)
        return estimate


class PReNet(Progressive, name="prenet"):
    """PReNet (Ren et al., 2019): 6 recursions, an LSTM of 32 channels, 5 residual blocks; 169 thousand weights."""


class PRN(Progressive, name="prn"):
    """PReNet without its memory (Ren et al., 2019)."""

    memory = False


class PReNetR(Progressive, name="prenet_r"):
    """PReNet whose five residual blocks are one, used five times (PReNet_r of Ren et al., 2019)."""

    shared = True
