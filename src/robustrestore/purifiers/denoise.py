"""Denoise: one call of a denoiser on the image as it is, no noise added."""

from torch import Tensor

from ..arguments import level
from ..diffusion import Denoiser
from ..stage import Purifier
from ._tiles import Tiles


class Denoise(Purifier, name="denoise"):
    """The denoiser is told that the image holds noise of standard deviation `sigma` ([0, 1] units), and takes it out.

    One network call, nothing random: the cheapest use of a prior, the ready baseline for diffusion (a plain denoiser as
    in Salman et al., 2020, without smoothing), and the student of `recipes.DistillPurifier`. Sigma 0 is the identity.
    `tile`, `overlap`, `tiles_at_once`: as in `Diffusion`; tiles are computed once more in the backward pass, each for itself.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sigma: float = 0.08,
        tile: int | None = None,
        overlap: int = 32,
        tiles_at_once: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"denoiser: expected a Denoiser such as rr.assets.prior(), got {type(denoiser).__name__}")
        self.denoiser, self.sigma = denoiser, level(sigma)
        self.tile, self.overlap, self.tiles_at_once = Tiles.checked(tile, overlap, tiles_at_once)

    def run(self, images: Tensor) -> Tensor:
        """The estimate; at `sigma` 0 the images without a call."""
        if self.sigma == 0:
            return images
        return Tiles(self.tile, self.overlap, self.tiles_at_once).estimate(self.denoiser, images, self.sigma, True)
