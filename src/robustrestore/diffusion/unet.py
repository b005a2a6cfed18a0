"""SigmaUNet: our own denoiser that knows its noise level."""

import torch
from torch import Tensor

from ..images import per_image
from ..networks import UNetBody
from .denoiser import Denoiser


class SigmaUNet(Denoiser, name="sigma_unet"):
    """A small U-Net that predicts the noise, so that at sigma 0 the image comes back as it is.

    Input scaled to unit variance for images of standard deviation 0.25 (after Karras et al., 2022), the level handed in
    as a map of 1 + log10(sigma) (a map as in FFDNet, Zhang et al., 2018). Meant for sigma up to 0.5.
    """

    multiple = UNetBody.multiple

    def __init__(self, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        if min(channels, width) < 1:
            raise ValueError(f"channels, width: expected whole numbers >= 1, got {channels} and {width}")
        self.channels, self.width = channels, width
        self.body = UNetBody(channels, channels, width, maps=1)

    def noise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The estimated standard normal noise for levels [N]."""
        level = per_image(sigma, noisy)
        scaled = (noisy - 0.5) * torch.rsqrt(level.square() + 0.25**2)
        estimate: Tensor = self.body(scaled, 1 + torch.log10(level.clamp(min=1e-3)))
        return estimate

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The image less the estimated noise."""
        return noisy - per_image(sigma, noisy) * self.noise(noisy, sigma)
