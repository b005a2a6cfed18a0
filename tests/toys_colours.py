"""A street set of three colours on disk, and a segmenter that knows them: for the benchmarks at toy size."""

from pathlib import Path

import torch
from torch import Tensor, nn

from robustrestore.data.image_file import save_image


class Brightest(nn.Module):
    """The brightest channel, with a weight so that it can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images


def write_camvid(root: Path) -> Path:
    """Flat squares of one channel 0.6, the others 0.4: rain leaves 0.17 between them; less than half breaks nothing.

    The folders are CamVid's, four frames a split.
    """
    from PIL import Image

    for split in ("train", "val"):
        for k in range(4):
            place = torch.randint(3, (2, 2), generator=torch.Generator().manual_seed(k))
            label = place.repeat_interleave(16, 0).repeat_interleave(16, 1)
            image = 0.4 + 0.2 * nn.functional.one_hot(label, 3).permute(2, 0, 1).float()
            (root / split).mkdir(exist_ok=True)
            (root / f"{split}annot").mkdir(exist_ok=True)
            save_image(image, root / split / f"{k}.png")
            Image.fromarray(label.byte().numpy()).save(root / f"{split}annot" / f"{k}.png")
    return root
