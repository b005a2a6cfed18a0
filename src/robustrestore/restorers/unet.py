"""UNet: a small restoration network of our own."""

from torch import Tensor

from ..assets import FOLDER
from ..modes import seeded
from ..networks import UNetBody
from ..stage import Restorer
from ..weights import load_weights


class UNet(Restorer, name="unet"):
    """A residual U-Net at 1/2, 1/4 and 1/8 resolution that returns input + correction. Untrained it is the identity."""

    multiple = UNetBody.multiple

    def __init__(self, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.body = UNetBody(channels, channels, width, middle=1)

    @classmethod
    def derain(cls) -> "UNet":
        """With the bundled weights that take rain streaks out (assets/derain.md), frozen, in evaluation mode."""
        with seeded(0):  # initial weights are drawn, and then replaced
            restorer = cls()
        load_weights(restorer.body, FOLDER / "derain.safetensors")
        return restorer.requires_grad_(False).eval()

    def run(self, images: Tensor) -> Tensor:
        """Input plus correction."""
        correction: Tensor = self.body(images - 0.5)
        return images + correction
