"""FourierUNet: a U-Net that sees the whole image in every block, for blur that reaches far, as that of a display."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks import UNetBody
from ..stage import Restorer


class FourierBlock(nn.Module):
    """The Res FFT-Conv block of Mao et al. (2023): input + two 3x3 convolutions + two 1x1 convolutions of its spectrum.

    The spectrum is orthonormal (our choice) and made in single precision at least. [N, C, H, W] -> the same.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.mix1, self.mix2 = (nn.Conv2d(2 * width, 2 * width, 1) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """All three paths added."""
        near: Tensor = self.conv2(F.relu(self.conv1(features)))
        wide = features if features.dtype.itemsize >= 4 else features.float()
        spectrum = torch.fft.rfft2(wide, norm="ortho")
        parts = torch.cat([spectrum.real, spectrum.imag], dim=1).to(features)
        real, imaginary = self.mix2(F.relu(self.mix1(parts))).to(wide).chunk(2, dim=1)
        far: Tensor = torch.fft.irfft2(torch.complex(real, imaginary), features.shape[-2:], norm="ortho")
        return features + near + far.to(features)


class FourierUNet(Restorer, name="fourier_unet"):
    """The U-Net of `networks.UNetBody` made of Res FFT-Conv blocks (Mao et al., 2023): a million weights.

    The put-together is ours, for under-display cameras, whose orders of diffraction lie tens of pixels apart. Untrained it is
    the identity. A spectrum depends on the image's size: use it at about the size of the crops it was trained on, or tile.
    """

    multiple = UNetBody.multiple

    def __init__(self, channels: int = 3, width: int = 24, middle: int = 3) -> None:
        super().__init__()
        self.channels, self.width, self.middle = channels, width, middle
        self.body = UNetBody(channels, channels, width, middle=middle, block=FourierBlock)

    def run(self, images: Tensor) -> Tensor:
        """Input plus correction."""
        correction: Tensor = self.body(images - 0.5)
        return images + correction
