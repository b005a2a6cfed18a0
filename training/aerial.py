"""Train a small aerial scene classifier on UC Merced (Yang and Newsam, 2010), from scratch.

    python training/aerial.py --ucmerced PATH --network slim_resnet18 --out runs/aerial-slim_resnet18
    python training/aerial.py --ucmerced PATH --network regnetx_002 --steps 3000 --out runs/aerial-regnetx_002

PATH holds train/CLASS/*.jpg and test/CLASS/*.jpg. The networks are timm's: ResNet-18 at half its width (He et al., 2016) and
RegNetX-200MF (Radosavovic et al., 2020). Windows are turned by any angle, mirrored, recoloured and mixed in pairs (CutMix,
Yun et al., 2019). Test images serve to report the end result: nothing is chosen by them.
"""

import math
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import loop

SIZE, STORED = 128, 160  # what the network sees; windows are cut from images of the second
MEAN, STD = (0.485, 0.490, 0.451), (0.218, 0.203, 0.196)
NETWORKS = {"slim_resnet18": ("resnet18", {"channels": (32, 64, 128, 256)}), "regnetx_002": ("regnetx_002", {})}
SMOOTHING = 0.1


def split(root: Path, name: str, size: int) -> tuple[Tensor, Tensor]:
    """All images as uint8 [N, 3, size, size] and their labels: the classes' places in alphabetical order."""
    images, labels = [], []
    for label, folder in enumerate(sorted(path for path in (root / name).iterdir() if path.is_dir())):
        for path in sorted(folder.glob("*.jpg")):
            image = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
            images.append(np.asarray(image))
            labels.append(label)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def network(name: str, classes: int) -> nn.Module:
    kind, settings = NETWORKS[name]
    return timm.create_model(kind, num_classes=classes, pretrained=False, **settings)


def normalise(images: Tensor) -> Tensor:
    shape = (1, 3, 1, 1)
    return (images - torch.tensor(MEAN).view(shape).to(images)) / torch.tensor(STD).view(shape).to(images)


def windows(images: Tensor, generator: torch.Generator) -> Tensor:
    """Windows [N, 3, SIZE, SIZE] in [0, 1] of uint8 images: place, scale, angle, mirror and colours drawn at random."""
    n = len(images)
    r = torch.rand(n, 8, generator=generator)
    zoom, angle = torch.exp(math.log(0.55) * r[:, 0]), 2 * math.pi * r[:, 1]
    free = r[:, 7] < 0.5  # half are turned by any angle, half by quarters
    angle = torch.where(free, angle, (angle / (math.pi / 2)).floor() * (math.pi / 2))
    stretch, mirror = torch.exp((r[:, 2] - 0.5) * 0.3), torch.where(r[:, 3] < 0.5, -1.0, 1.0)
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    theta = torch.stack([cosine * stretch * mirror, -sine / stretch, (2 * r[:, 4] - 1) * (1 - zoom)], 1)
    lower = torch.stack([sine * stretch * mirror, cosine / stretch, (2 * r[:, 5] - 1) * (1 - zoom)], 1)
    grid = F.affine_grid(torch.stack([theta, lower], 1), [n, 3, SIZE, SIZE], align_corners=False)
    cut = F.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
    gain = 1 + (torch.rand(n, 3, 1, 1, generator=generator) - 0.5) * 0.3
    gamma = torch.exp((r[:, 6] - 0.5) * 0.8).view(-1, 1, 1, 1)
    return (cut.clamp(1e-4, 1) ** gamma * gain).clamp(0, 1)


def cut_mix(images: Tensor, wanted: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One rectangle of each image replaced by the next image's, the wanted shares accordingly; every second batch."""
    if float(torch.rand(1, generator=generator)) < 0.5:
        return images, wanted
    part = float(torch.rand(1, generator=generator)) ** 0.5
    side = int(SIZE * part)
    top, left = torch.randint(0, SIZE - side + 1, (2,), generator=generator).tolist()
    images = images.clone()
    images[:, :, top : top + side, left : left + side] = images.roll(1, 0)[:, :, top : top + side, left : left + side]
    share = (side / SIZE) ** 2
    return images, (1 - share) * wanted + share * wanted.roll(1, 0)


def accuracy(net: nn.Module, images: Tensor, labels: Tensor, device: str) -> float:
    with torch.no_grad():
        guess = torch.cat([net(normalise(x.to(device).float() / 255)).argmax(1).cpu() for x in images.split(35)])
    return float((guess == labels).float().mean())


def main() -> None:
    parser = loop.arguments(__doc__.splitlines()[0], steps=1600, batch=16, lr=2e-3)
    loop.add_precision(parser)
    parser.add_argument("--ucmerced", type=Path, required=True)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="slim_resnet18")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    images, labels = split(options.ucmerced, "train", STORED)
    test = split(options.ucmerced, "test", SIZE)
    classes = int(labels.max()) + 1
    net = network(options.network, classes).to(memory_format=torch.channels_last)

    def loss(module: nn.Module, generator: torch.Generator, _: float) -> Tensor:
        index = torch.randperm(len(images), generator=generator)[: options.batch]
        wanted = F.one_hot(labels[index], classes) * (1 - SMOOTHING) + SMOOTHING / classes
        x, wanted = cut_mix(windows(images[index], generator), wanted, generator)
        x = normalise(x.to(options.device)).contiguous(memory_format=torch.channels_last)
        with loop.autocast(options):
            logits = module(x)
        return F.cross_entropy(logits.float(), wanted.to(options.device))

    loop.fit(net, loss, options, lambda module: {"accuracy": round(accuracy(module, *test, options.device), 4)})


if __name__ == "__main__":
    main()
