"""UC Merced (Yang and Newsam, 2010) and the networks that training/aerial.py makes: 21 kinds of scene seen from above.

A copy of the set has train/CLASS/*.jpg and test/CLASS/*.jpg; images are mostly 256 x 256, some a little smaller, and come
resized to 128 x 128. The bundled prior learned from the training part, at full and half size.
"""

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor

import robustrestore as rr
from robustrestore.weights import load_weights

SIZE = 128
MEAN, STD = (0.485, 0.490, 0.451), (0.218, 0.203, 0.196)
NETWORKS = {"regnetx_002": ("regnetx_002", {}), "slim_resnet18": ("resnet18", {"channels": (32, 64, 128, 256)})}
POOLINGS = {"slim_resnet18": "model.global_pool", "regnetx_002": "model.head.global_pool"}
SHALLOW = {"slim_resnet18": ("conv1", "bn1", "act1", "maxpool", "layer1"), "regnetx_002": ("stem", "s1")}


def classes(root: Path) -> list[str]:
    """The folders' names in order; a label is the place in this list."""
    return sorted(path.name for path in (root / "train").iterdir() if path.is_dir())


def split(root: Path, name: str, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Images [N, 3, size, size] in [0, 1] (Lanczos, 8 bits) and labels [N], class after class, files in order."""
    images, labels = [], []
    for label, kind in enumerate(classes(root)):
        for path in sorted((root / name / kind).glob("*.jpg")):
            images.append(np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.Resampling.LANCZOS)))
            labels.append(label)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float() / 255, torch.tensor(labels)


def network(name: str, weights: Path) -> rr.Adapted:
    """A trained network, frozen: [0, 1] images in, 21 scores out."""
    kind, settings = NETWORKS[name]
    body = timm.create_model(kind, num_classes=21, pretrained=False, **settings)
    load_weights(body, weights)
    return rr.Adapted(body.requires_grad_(False).eval(), MEAN, STD).eval()


def shallow(name: str, model: rr.Adapted) -> rr.Adapted:
    """The first layers of a network, from [0, 1] images to one map of features."""
    body = torch.nn.Sequential(*(getattr(model.model, part) for part in SHALLOW[name]))
    return rr.Adapted(body.eval(), MEAN, STD, upsample=None).eval()
