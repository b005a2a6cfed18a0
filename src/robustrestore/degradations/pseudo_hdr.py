"""Highlights for ordinary photographs, so that optics have something to flare with."""

import numpy as np
import torch
from torch import Tensor

from ..images import check_images
from .under_display import HIGHEST

_GAINS = ((36, 101.0), (64, 65.0))  # bounding box of a highlight in pixels, below: its gain
_LARGE = 9.0


def pseudo_hdr(images: Tensor) -> Tensor:
    """Photographs [N, C, H, W] in [0, 1] as linear scenes up to 500, after the data generator of DDRNet (Liu et al., 2024).

    Highlights are pixels whose mean exceeds 0.7 of the largest and whose brightest channel exceeds 0.85. They gain 101 in a
    bounding box below 36 pixels, 65 below 64, and 9 beyond; all else stays. No gamma is undone, as there. Follow it by
    `tone_map` for images that `UnderDisplay` takes. The gains hold still under autograd: they are data, not a function.
    """
    from scipy.ndimage import find_objects, label

    check_images(images)
    means, tops = images.detach().mean(1), images.detach().amax(1)
    bright = (means > 0.7 * means.amax(dim=(1, 2), keepdim=True)) & (tops > 0.85)
    gains = np.ones(bright.shape, dtype=np.float32)
    for mask, gain in zip(bright.cpu().numpy(), gains, strict=True):
        numbered, _ = label(mask)
        for number, box in enumerate(find_objects(numbered), start=1):
            area = int(np.prod([side.stop - side.start for side in box]))
            gain[box][numbered[box] == number] = next((g for limit, g in _GAINS if area < limit), _LARGE)
    return (images * torch.from_numpy(gains)[:, None].to(images)).clamp(max=HIGHEST)
