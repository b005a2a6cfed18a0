"""Denoisers with known answers, shared by the tests of diffusion, purifiers and integrations."""

from collections.abc import Callable
from weakref import WeakSet

import torch
from torch import Tensor, nn

from robustrestore import diffusion


class Oracle(diffusion.Denoiser):
    """Knows the clean image and returns it, whatever it is shown; keeps what it was shown and told."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean = clean
        self.shown: list[Tensor] = []
        self.told: list[float] = []

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        self.shown.append(noisy.detach().clone())
        self.told.append(float(sigma[0]))
        return self.clean.to(noisy).expand_as(noisy)


class GaussianPrior(diffusion.Denoiser):
    """The exact posterior mean where clean pixels are N(mean, std^2), independent of each other."""

    def __init__(self, mean: float = 0.4, std: float = 0.1) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.calls = 0

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        trust = (self.std**2 / (self.std**2 + sigma**2)).view(-1, 1, 1, 1)
        return self.mean + trust * (noisy - self.mean)


class Convolved(diffusion.Denoiser):
    """A small smooth non-linear network over neighbourhoods, noise-conditioned; counts its calls."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            self.conv1 = nn.Conv2d(channels, 6, 3, padding=1)
            self.conv2 = nn.Conv2d(6, channels, 3, padding=1)
        self.channels, self.calls = channels, 0

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        level = sigma.view(-1, 1, 1, 1)
        return noisy - level * self.conv2(torch.tanh(3 * self.conv1(noisy - 0.5) + level))


class Timed(nn.Module):
    """A network with timesteps: a smooth function of the image and of t / 1000."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, z: Tensor, timestep: Tensor) -> Tensor:
        return torch.tanh(self.conv(z) + timestep.to(z).view(-1, 1, 1, 1) / 1000)


class _Kept:
    """A tensor that autograd holds, for as long as it does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept(run: Callable[[], Tensor]) -> int:
    """How many numbers the graph of what `run` returns holds for its backward pass; those held several times count once."""
    held: WeakSet[_Kept] = WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        held.add(one := _Kept(tensor))
        return one

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one.tensor):
        out = run()
    assert out.requires_grad
    return sum({one.tensor.data_ptr(): one.tensor.numel() for one in held}.values())
