"""Purification by diffusion (Nie et al., 2022): add noise, then denoise it away, and the attack with it."""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..diffusion import DDIM, Denoiser, Guidance, Sampler
from ..diffusion.guidance import guided
from ..diffusion.recompute import recomputed
from ..images import tiled
from ..modes import generator
from ..stage import Purifier


class Diffusion(Purifier, name="diffusion"):
    """Noise of standard deviation `sigma` ([0, 1] units), then `steps` of `sampler` back to sigma 0 (Nie et al., 2022).

    `seed`: a number gives every image the same noise whatever its batch, so the stage is a fixed function; None draws
    afresh from PyTorch's global generator. `tile`: at most that many pixels on a side go through the network at once,
    blended over `overlap`; noise is drawn for the whole image, so tiling does not change what is sampled. `tiles_at_once`: so
    many of them in one batch, None is 1; a GPU gains by more. `checkpointed`: recompute each step, and each tile, in the
    backward pass, so that exact gradients through many need the memory of one and an image for each. `guidance`: corrects
    each estimate by the stage's input; it sees the whole image, tiles are for the denoiser alone. Its own weights get no
    gradient.
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
        checkpointed: bool = True,
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
        if not sigma >= 0:
            raise ValueError(f"sigma: expected a level >= 0 in units of [0, 1] images, got {sigma}")
        if steps < 1:
            raise ValueError(f"steps: expected a whole number >= 1, got {steps}")
        if tile is not None and not 0 <= overlap < tile:
            raise ValueError(f"overlap: expected 0 <= overlap < tile, got overlap {overlap} and tile {tile}")
        if tiles_at_once is not None and tiles_at_once < 1:
            raise ValueError(f"tiles_at_once: expected a whole number >= 1 or None, got {tiles_at_once}")
        self.denoiser, self.sigma, self.steps = denoiser, float(sigma), steps
        self.sampler: Sampler = DDIM() if sampler is None else sampler
        if not isinstance(guidance, Guidance | None):
            raise TypeError(f"guidance: expected a Guidance such as guidances.PixelGuidance(), got {type(guidance).__name__}")
        self.seed, self.tile, self.overlap, self.checkpointed = seed, tile, overlap, checkpointed
        self.guidance, self.tiles_at_once = guidance, tiles_at_once

    @classmethod
    def default(cls) -> "Diffusion":
        """With the bundled prior, at the level and steps that its model card gives reasons for."""
        from ..assets import prior

        return cls(prior(), sigma=0.08, steps=1)

    def _noise(self, images: Tensor, own: torch.Generator | None) -> Tensor:
        if own is None:
            return torch.randn_like(images)
        one = torch.randn(1, *images.shape[1:], generator=own, dtype=torch.float32)
        return one.to(images).expand_as(images)

    def _tile(self, images: Tensor) -> int | None:
        """The side of a tile; None where the images go through the network whole."""
        return None if self.tile is None or max(images.shape[-2:]) <= self.tile else self.tile

    def _estimate(self, noisy: Tensor, sigma: float) -> Tensor:
        """The denoiser's. Tiles are recomputed each for itself: no more than one batch of them has a graph at a time."""

        def denoised(pieces: Tensor) -> Tensor:
            out: Tensor = self.denoiser(pieces, sigma)
            return out

        tile, weights = self._tile(noisy), list(self.denoiser.parameters())
        if tile is None:
            return denoised(noisy)
        one = (lambda pieces: recomputed(denoised, [pieces], weights)) if self.checkpointed else denoised
        return tiled(one, noisy, tile, self.overlap, self.tiles_at_once or 1)

    def _clean(self, now: float, noisy: Tensor, images: Tensor) -> Tensor:
        """The estimate of one step, guided."""
        if self.guidance is None:
            return self._estimate(noisy, now)
        return guided(self._estimate, self.guidance, noisy, images, now, list(self.denoiser.parameters()))

    def run(self, images: Tensor) -> Tensor:
        """Diffuse, then sample back; at `sigma` 0 the images as they are, without a network call."""
        if self.sigma == 0:
            return images
        own = None if self.seed is None else generator(self.seed)
        levels = self.sampler.levels(self.sigma, self.steps)
        noisy = images + levels[0] * self._noise(images, own)
        weights = list(self.denoiser.parameters())
        alone = self.guidance is None and self._tile(images) is not None  # tiles are recomputed, and there is nothing else
        recompute = self.checkpointed and len(levels) > 2 and not alone
        before: tuple[Tensor, float] | None = None
        for now, then in pairwise(levels):
            step = partial(self._clean, now)
            clean = recomputed(step, [noisy, images], weights) if recompute else step(noisy, images)
            noise = self._noise(images, own) if self.sampler.spread(now, then) > 0 else None
            noisy, before = self.sampler.step(noisy, clean, now, then, noise, before), (clean, now)
        return noisy
