"""A training small enough for tests: three classes told by colour, a network that learns them in seconds."""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import robustrestore as rr


def colours(count: int = 30) -> TensorDataset:
    """Images [3, 8, 8] whose darkest channel is the label."""
    own = torch.Generator().manual_seed(1)
    images, labels = 0.4 + 0.5 * torch.rand(count, 3, 8, 8, generator=own), torch.arange(count) % 3
    images[torch.arange(count), labels] *= 0.5
    return TensorDataset(images, labels)


def classifier(seed: int = 0) -> nn.Module:
    """With batch statistics, so that inner attacks could spoil them."""
    with rr.seeded(seed):
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
        )


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def adversarial(network: nn.Module) -> rr.recipes.AdversarialTraining:
    attack = rr.attacks.PGD(rr.Linf(4 / 255), steps=2, seed=None)
    return rr.recipes.AdversarialTraining(network, rr.tasks.Classification(), attack)
