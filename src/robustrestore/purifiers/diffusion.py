"""Purification by diffusion (Nie et al., 2022): add noise, then denoise it away, and the attack with it."""

from torch import Tensor

from ..arguments import level, whole
from ..arguments import seed as seed_of
from ..diffusion import DDIM, Denoiser, Guidance, Sampler
from ..diffusion.guidance import guided
from ..replicas import weights_of
from ..stage import Purifier
from ._chain import Chain, checked_checkpoints
from ._tiles import Tiles


class Diffusion(Purifier, name="diffusion"):
    """Noise of standard deviation `sigma` ([0, 1] units), then `steps` of `sampler` back to sigma 0 (Nie et al., 2022).

    `seed`: a number gives every image the same noise whatever its batch, so the stage is a fixed function; None draws
    afresh from PyTorch's global generator. `tile`: at most that many pixels on a side go through the network at once,
    blended over `overlap`; noise is drawn for the whole image, so tiling does not change what is sampled. `tiles_at_once`: so
    many of them in one batch, None is 1; a GPU gains by more. `checkpointed`: recompute each step, and each tile, in the
    backward pass, so that exact gradients through many need the memory of one and an image for each. A number `k` nests them:
    two images for each `k` steps, one for each of `k`, and one more network call a step (the scheme of Griewank, 1992, of two
    storeys); True is the root of the steps where they are more than 100. `guidance`: corrects each estimate by the stage's
    input; it sees the whole image, tiles are for the denoiser alone. Its own weights get no gradient.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sigma: float = 0.1,
        steps: int = 5,
        sampler: Sampler | None = None,
        seed: int | None = 0,
        tile: int | None = None,
        overlap: int = 32,
        checkpointed: bool | int = True,
        guidance: Guidance | None = None,
        tiles_at_once: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(denoiser, Denoiser):
            raise TypeError(
                f"denoiser: expected a Denoiser, got {type(denoiser).__name__}: wrap it in diffusion.NoiseConditioned or "
                "diffusion.DiscreteTime"
            )
        if not isinstance(sampler, Sampler | None):
            raise TypeError(f"sampler: expected a Sampler such as diffusion.DDIM(), got {type(sampler).__name__}")
        self.denoiser, self.sigma, self.steps = denoiser, level(sigma), whole(steps, "steps")
        self.sampler: Sampler = DDIM() if sampler is None else sampler
        if not isinstance(guidance, Guidance | None):
            raise TypeError(f"guidance: expected a Guidance such as guidances.PixelGuidance(), got {type(guidance).__name__}")
        self.tile, self.overlap, self.tiles_at_once = Tiles.checked(tile, overlap, tiles_at_once)
        self.seed, self.guidance, self.checkpointed = seed_of(seed), guidance, checked_checkpoints(checkpointed)

    @classmethod
    def default(cls) -> "Diffusion":
        """With the bundled prior, at the level and steps that its model card gives reasons for."""
        from ..assets import prior

        return cls(prior(), sigma=0.08, steps=1)

    @property
    def _tiles(self) -> Tiles:
        return Tiles(self.tile, self.overlap, self.tiles_at_once)

    def _estimate(self, noisy: Tensor, sigma: float) -> Tensor:
        return self._tiles.estimate(self.denoiser, noisy, sigma, bool(self.checkpointed))

    def _clean(self, now: float, noisy: Tensor, images: Tensor) -> Tensor:
        """The estimate of one step, guided."""
        if self.guidance is None:
            return self._estimate(noisy, now)
        return guided(self._estimate, self.guidance, noisy, images, now, weights_of(self.denoiser))

    def run(self, images: Tensor) -> Tensor:
        """Diffuse, then sample back; at `sigma` 0 the images as they are, without a network call."""
        if self.sigma == 0:
            return images
        stepwise = self.guidance is not None or not self._tiles.cut(images)  # else there is nothing to recompute beside tiles
        chain = Chain(self.sampler, self._clean, weights_of(self.denoiser), self.seed, self.checkpointed, stepwise)
        levels = self.sampler.levels(self.sigma, self.steps)
        return chain.down(levels, images + levels[0] * chain.noise(images), images)
