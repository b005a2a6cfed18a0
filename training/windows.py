"""CamVid frames at the working size in memory, as random windows, mirrored at random: what the street recipes learn from."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

import robustrestore as rr


class Windows(Dataset[dict[str, Tensor]]):
    """Items {"images", "target"} of `window` (height, width) from frames shrunk to the bundled segmenter's size."""

    def __init__(self, root: Path, split: Any = "train", window: tuple[int, int] | None = (128, 192)) -> None:
        frames = rr.data.CamVid(root, split, rr.assets.STREET_SIZE)
        pairs = [frames[k] for k in range(len(frames))]
        self.images = torch.stack([(image * 255).round().byte() for image, _ in pairs])
        self.labels = torch.stack([label.byte() for _, label in pairs])
        self.window = window

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        image, label = self.images[place].float() / 255, self.labels[place].long()
        if self.window is None:
            return {"images": image, "target": label}
        (height, width), (h, w) = label.shape, self.window
        top, left = int(torch.randint(height - h + 1, ())), int(torch.randint(width - w + 1, ()))
        image, label = image[:, top : top + h, left : left + w], label[top : top + h, left : left + w]
        if int(torch.randint(2, ())):
            image, label = image.flip(-1), label.flip(-1)
        return {"images": image, "target": label}
