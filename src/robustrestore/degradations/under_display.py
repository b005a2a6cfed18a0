"""What a camera sees through a display: image formation of under-display cameras, in linear light."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..degradation import Degradation, keyed
from ._convolve import convolve
from .psf import PSF
from .sensor_noise import electrons

HIGHEST = 500.0  # linear light is clipped there, before the PSF and after it
_HALF = 0.25  # light that is mapped to a half


def tone_map(light: Tensor) -> Tensor:
    """Linear light >= 0 to an image in [0, 1): light / (light + 0.25), as DISCNet (Feng et al., 2021); 500 becomes 0.9995."""
    return light / (light + _HALF)


def inverse_tone_map(images: Tensor) -> Tensor:
    """The linear light of tone-mapped images, at most 500: t / (4 (1 - t)). Single precision is good to 1e-4 up there."""
    images = images.clamp(0, HIGHEST / (HIGHEST + _HALF))
    return _HALF * images / (1 - images)


class UnderDisplay(Degradation, name="under_display"):
    """Image formation of DISCNet (Feng et al., 2021): tone_map(clip(scene * psf + noise)). Differentiable in the scene.

    Images are tone-mapped scenes, so a bright one is near 1 and a display spreads its light: an ordinary photograph has no
    such highlights and gets no flare; give it some by `pseudo_hdr`. Beyond the edges it is dark. `white`: electrons for light
    of 1, None for no noise, as in DISCNet's synthetic data; the noise is that of `SensorNoise`, without a full well.
    """

    def __init__(self, psf: PSF, white: float | None = None, seed: int = 0) -> None:
        super().__init__()
        if white is not None and not white > 0:
            raise ValueError(f"white: expected electrons > 0 or None, got {white}")
        self.psf, self.white, self.seed = psf, None if white is None else float(white), seed

    def run(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        """Back to linear light, through the display, and to an image again."""
        wide = images if images.dtype.itemsize >= 4 else images.float()
        return self.capture(inverse_tone_map(wide), keys).to(images)

    def capture(self, scene: Tensor, keys: Sequence[int]) -> Tensor:
        """The tone-mapped picture of a linear scene [N, C, H, W] >= 0, which is clipped at 500 first."""
        kernel = self.psf().to(scene)
        if kernel.shape[0] not in (1, scene.shape[1]):
            raise ValueError(f"images: expected {kernel.shape[0]} channels, as the PSF has, got {scene.shape[1]}")
        light = convolve(scene.clamp(max=HIGHEST), kernel).clamp(min=0)
        if self.white is not None:
            counted = [electrons(one, self.white, keyed(self.seed, key)) for one, key in zip(light, keys, strict=True)]
            light = torch.stack(counted) / self.white
        return tone_map(light.clamp(0, HIGHEST))
