"""Models with known certificates, shared by tests."""

import torch
from torch import Tensor, nn


class Line(nn.Module):
    """Logits (s, -s) for s = <w, x> + b: the distance to the boundary is |s| / |w|, and smoothing changes no answer."""

    def __init__(self, size: int = 4, seed: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, size, size, generator=torch.Generator().manual_seed(seed)))
        self.bias = nn.Parameter(-0.5 * self.weight.detach().sum())

    def score(self, images: Tensor) -> Tensor:
        return (images * self.weight).flatten(1).sum(1) + self.bias

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.score(images), -self.score(images)], dim=1)

    def distance(self, images: Tensor) -> Tensor:
        return (self.score(images).abs() / self.weight.norm()).detach()


def images_of(count: int, seed: int = 0, size: int = 4) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed))


class Recorder:
    """An oracle that keeps what it is shown."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        return Line()(images)


def grey(size: int = 6) -> Tensor:
    """Values far from 0 and 1, so that nothing is cut off."""
    return 0.4 + 0.2 * torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(1))


class Mix(nn.Module):
    """A linear restorer whose value i is <w_i, x>: the worst change of it at eps is eps |w_i|."""

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        mix = torch.rand(size * size, size * size, generator=torch.Generator().manual_seed(2))
        self.weight = nn.Parameter(mix / mix.sum(1, keepdim=True))

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) @ self.weight.T).view_as(images)


class Colour(nn.Module):
    """The class is the channel with the largest mean."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))
