"""Denoise: one call of a denoiser on the image as it is, no noise added."""

from torch import Tensor

from ..diffusion import Denoiser
from ..stage import Purifier


class Denoise(Purifier, name="denoise"):
    """The denoiser is told that the image holds noise of standard deviation `sigma` ([0, 1] units), and takes it out.

    One network call, nothing random: the cheapest use of a prior, the ready baseline for diffusion (a plain denoiser as
    in Salman et al., 2020, without smoothing), and the student of `recipes.DistillPurifier`. Sigma 0 is the identity.
    """

    def __init__(self, denoiser: Denoiser, sigma: float = 0.08) -> None:
        super().__init__()
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"denoiser: expected a Denoiser such as rr.assets.prior(), got {type(denoiser).__name__}")
        if not 0 <= sigma < float("inf"):
            raise ValueError(f"sigma: expected a finite level >= 0 in units of [0, 1] images, got {sigma}")
        self.denoiser, self.sigma = denoiser, float(sigma)

    def run(self, images: Tensor) -> Tensor:
        """The estimate; at `sigma` 0 the images without a call."""
        if self.sigma == 0:
            return images
        out: Tensor = self.denoiser(images, self.sigma)
        return out
