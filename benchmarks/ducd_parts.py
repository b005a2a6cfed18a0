"""Networks, splits and training for ducd.py and its server: small, so that one core can do all of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustrestore as rr

OWNED, POOL, SELECT = slice(0, 8000), slice(8000, 18_000), slice(18_000, 18_200)  # of MNIST's first 20,000 training digits
TEST, HELD = slice(0, 500), slice(500, 2500)  # of its first 5,000 test digits
MEMBERS, OTHERS, ASKED = slice(0, 1000), slice(1000, 2000), slice(2000, 4000)  # of 4,000 CIFAR-10 images, shuffled

BY_HEART = 40  # epochs after which a network knows the members


def digits(folder: Path, part: slice, name: str = "train_first20000") -> tuple[Tensor, Tensor]:
    """MNIST (or, with `name`, its like) as images [N, 1, 28, 28] in [0, 1] and labels."""
    with np.load(folder / f"{name}.npz") as file:
        images, labels = torch.from_numpy(file["images"][part]), torch.from_numpy(file["labels"][part])
    return images[:, None].float() / 255, labels.long()


def pictures(folder: Path, part: slice) -> tuple[Tensor, Tensor]:
    """CIFAR-10 in a fixed order that mixes the classes."""
    with np.load(folder / "jpeg_train_4000.npz") as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[part]
    return images[order].permute(0, 3, 1, 2).float() / 255, labels[order].long()


def target() -> nn.Module:
    """The classifier of digits that is asked: other kernels and widths than the surrogate's."""
    first = [nn.Conv2d(1, 20, 4, 2, 1), nn.ReLU(), nn.Conv2d(20, 40, 4, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*first, nn.Linear(40 * 49, 96), nn.ReLU(), nn.Linear(96, 10))


def surrogate() -> nn.Module:
    """What learns the answers of `target`."""
    first = [nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*first, nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10))


def small_cnn(width: int = 16) -> nn.Module:
    """A classifier of CIFAR-10 with more than enough weights to know 1,000 images by heart."""
    first = [nn.Conv2d(3, width, 5, 2, 2), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*first, nn.Linear(2 * width * 64, 64), nn.ReLU(), nn.Linear(64, 10))


class Denoiser(nn.Module):
    """Residual, three convolutions on 2 x 2 blocks of pixels (after FFDNet's layout), in front of a frozen classifier.

    The classifier stands in a tuple, so that training moves the denoiser alone (Salman et al., 2020: the stability objective).
    """

    def __init__(self, behind: nn.Module, width: int = 24) -> None:
        super().__init__()
        middle = [nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU()]
        self.body = nn.Sequential(nn.Conv2d(4, width, 3, 1, 1), *middle, nn.Conv2d(width, 4, 3, 1, 1))
        self.behind = (behind.eval(),)

    def forward(self, images: Tensor) -> Tensor:
        blocks = F.pixel_unshuffle(images, 2)
        scores: Tensor = self.behind[0](F.pixel_shuffle(blocks - self.body(blocks), 2))
        return scores


def taught(
    network: nn.Module, data: tuple[Tensor, Tensor], epochs: int, seed: int, sigma: float = 0.0, shift: int = 0
) -> nn.Module:
    """The network trained on labels, shifted by up to `shift` pixels, under Gaussian noise as Cohen et al. (2019) train."""
    (images, labels), own = data, torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(images) // 64)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, steps)
    for _ in range(epochs):
        for places in torch.randperm(len(images), generator=own).split(64):
            down, right = torch.randint(-shift, shift + 1, (2,), generator=own).tolist()
            shown = torch.roll(images[places], (down, right), (2, 3))
            if sigma > 0:
                shown = shown + sigma * torch.randn(shown.shape, generator=own)
            loss = F.cross_entropy(network(shown), labels[places])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def kept(place: Path, network: nn.Module, train: Callable[[], object]) -> nn.Module:
    """The network with its weights from `place`, or, where there are none yet, trained and then written there."""
    from safetensors.torch import save_file

    if place.is_file():
        rr.weights.load_weights(network, place)
    else:
        train()
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(".part")
        save_file({name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}, part)
        part.replace(place)
    return network.eval()


def accuracy(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((torch.cat([model(part) for part in images.split(256)]).argmax(1) == labels).double().mean())
