"""A pipeline of every kind of part, and what in it is foreign: shared by the tests of settings and of saving."""

from typing import Any

import torch
from torch import Tensor, nn
from toys import Gain

import robustrestore as rr
from robustrestore import diffusion


class Head(nn.Module):
    """A foreign network with a weight and a buffer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        own = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(2, 3, generator=own))
        self.register_buffer("shift", torch.randn(1, 2, 1, 1, generator=own))

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("nchw,kc->nkhw", images, self.weight) + self.shift


def randomised(part: nn.Module, seed: int = 0) -> Any:
    own = torch.Generator().manual_seed(seed)
    for parameter in part.parameters():
        parameter.data = torch.randn(parameter.shape, generator=own) * 0.05
    return part


def purifier() -> rr.Purifier:
    denoiser = randomised(diffusion.SigmaUNet(width=4))
    return rr.purifiers.Diffusion(denoiser, sigma=0.15, steps=2, sampler=diffusion.DDPM(), seed=3)


def pipeline() -> rr.DefendedPipeline:
    model = rr.Adapted(Head(), mean=[0.1, 0.2, 0.3])
    return rr.DefendedPipeline(model, [purifier(), rr.purifiers.Jpeg(40), rr.restorers.Network(Gain(0.9))])


FOREIGN = {"model.model": Head(), "stages.2.network": Gain(0.9)}
