"""Train the bundled street-scene segmenter on CamVid's training split.

    python training/segmenter.py --camvid PATH --out runs/segmenter

PATH holds train, trainannot, val and valannot as in the published split. The network is segmentation-models-pytorch's
U-Net on a RegNetX-200MF encoder (Radosavovic et al., 2020), from scratch. Loss: class-weighted cross-entropy plus the
Lovasz-softmax surrogate of the mean IoU (Berman, Triki and Blaschko, 2018).
"""

from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import loop

SIZE, SMALL = (192, 256), (128, 192)  # most steps see smaller windows: they cost half
MEAN, STD = (0.41, 0.425, 0.43), (0.30, 0.31, 0.30)
IGNORED, CLASSES = 255, 11


def split(root: Path, name: str) -> tuple[Tensor, Tensor]:
    """All frames [N, 3, 360, 480] as uint8 and labels [N, 360, 480] with 255 where void."""
    images, labels = [], []
    for path in sorted((root / name).iterdir()):
        label = (root / f"{name}annot" / path.name).with_suffix(".png")
        images.append(np.asarray(Image.open(path).convert("RGB")))
        labels.append(np.asarray(Image.open(label)))
    ids = torch.from_numpy(np.stack(labels)).long()
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), ids.masked_fill(ids >= CLASSES, IGNORED)


def network() -> nn.Module:
    return smp.Unet("tu-regnetx_002", encoder_weights=None, classes=CLASSES, decoder_channels=(128, 96, 64, 32, 16))


def normalise(images: Tensor) -> Tensor:
    shape = (1, 3, 1, 1)
    return (images - torch.tensor(MEAN).view(shape).to(images)) / torch.tensor(STD).view(shape).to(images)


def crop(
    images: Tensor, labels: Tensor, index: Tensor, size: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random windows (scale, place, flip, colour) of the chosen frames at `size`, in the scale of the working size."""
    n = len(index)
    r = torch.rand(n, 8, generator=generator)
    zoom = torch.exp(r[:, 0] - 0.75).clamp(max=1.0)  # window as a part of the frame: 0.47 to 1
    aspect = torch.exp((r[:, 1] - 0.5) * 0.3)
    flip = torch.where(r[:, 2] < 0.5, -1.0, 1.0)
    w = (zoom * aspect).clamp(max=1.0) * size[1] / SIZE[1]
    h = (zoom / aspect).clamp(max=1.0) * size[0] / SIZE[0]
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = w * flip, h
    theta[:, 0, 2] = (2 * r[:, 3] - 1) * (1 - w)
    theta[:, 1, 2] = (2 * r[:, 4] - 1) * (1 - h)
    grid = F.affine_grid(theta, [n, 3, *size], align_corners=False)
    x = F.grid_sample(images[index].float() / 255, grid, mode="bilinear", align_corners=False)
    y = F.grid_sample(labels[index][:, None].float(), grid, mode="nearest", align_corners=False)[:, 0].long()
    gamma = torch.exp((r[:, 5] - 0.5) * 0.8).view(-1, 1, 1, 1)
    gain = 1 + (torch.rand(n, 3, 1, 1, generator=generator) - 0.5) * 0.3
    return (x.clamp(1e-4, 1) ** gamma * gain).clamp(0, 1), y


def mean_iou(net: nn.Module, images: Tensor, labels: Tensor, device: str) -> float:
    """Intersection over union from counts over the whole split, mean of 11 classes, at the working size."""
    table = torch.zeros(CLASSES, CLASSES)
    with torch.no_grad():
        for i in range(0, len(images), 8):
            x = F.interpolate(images[i : i + 8].float() / 255, SIZE, mode="bilinear", antialias=True)
            y = F.interpolate(labels[i : i + 8][:, None].float(), SIZE, mode="nearest-exact")[:, 0].long()
            guess = net(normalise(x.to(device))).argmax(1).cpu()
            keep = y != IGNORED
            table += torch.bincount(y[keep] * CLASSES + guess[keep], minlength=CLASSES**2).view(CLASSES, CLASSES)
    inside = table.diag()
    return float((inside / (table.sum(0) + table.sum(1) - inside).clamp(min=1)).mean())


def main() -> None:
    parser = loop.arguments(__doc__.splitlines()[0], steps=3000, batch=8, lr=2e-3)
    parser.add_argument("--camvid", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    images, labels = split(options.camvid, "train")
    val = split(options.camvid, "val")
    counts = torch.bincount(labels[labels != IGNORED], minlength=CLASSES).float()
    weights = (counts.median() / counts).clamp(max=8).sqrt()
    lovasz = smp.losses.LovaszLoss("multiclass", ignore_index=IGNORED, per_image=False)
    net = network().to(memory_format=torch.channels_last)

    def loss(module: nn.Module, generator: torch.Generator, progress: float) -> Tensor:
        index = torch.randint(len(images), (options.batch,), generator=generator)
        size = SMALL if progress < 0.6 else SIZE
        x, y = crop(images, labels, index, size, generator)
        x, y = normalise(x.to(options.device)), y.to(options.device)
        logits = module(x.contiguous(memory_format=torch.channels_last))
        top, left = torch.randint(0, 2, (2,), generator=generator).tolist()
        quarter = lovasz(logits[:, :, top::2, left::2], y[:, top::2, left::2])  # sorting every pixel doubles the time
        return F.cross_entropy(logits, y, weights.to(options.device), ignore_index=IGNORED) + quarter

    loop.fit(net, loss, options, lambda module: {"mean_iou": mean_iou(module, *val, options.device)})


if __name__ == "__main__":
    main()
