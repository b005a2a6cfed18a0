"""Purification by diffusion (Nie et al., 2022): add noise, then denoise it away, and the attack with it."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..diffusion import DDIM, Denoiser, Guidance, Sampler
from ..diffusion.guidance import guided
from ..diffusion.recompute import recomputed
from ..images import tiled
from ..modes import generator
from ..replicas import weights_of
from ..stage import Purifier

_Pairs = Sequence[tuple[float, float]]  # the levels that steps lead from and to
_State = tuple[Tensor, tuple[Tensor, float] | None]  # an image between two steps, and the last estimate with its level


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
        if not sigma >= 0:
            raise ValueError(f"sigma: expected a level >= 0 in units of [0, 1] images, got {sigma}")
        if steps < 1:
            raise ValueError(f"steps: expected a whole number >= 1, got {steps}")
        if tile is not None and not 0 <= overlap < tile:
            raise ValueError(f"overlap: expected 0 <= overlap < tile, got overlap {overlap} and tile {tile}")
        if tiles_at_once is not None and tiles_at_once < 1:
            raise ValueError(f"tiles_at_once: expected a whole number >= 1 or None, got {tiles_at_once}")
        if not isinstance(checkpointed, int) or checkpointed < 0:
            raise ValueError(f"checkpointed: expected True, False or a number of steps >= 1, got {checkpointed!r}")
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

        tile, weights = self._tile(noisy), weights_of(self.denoiser)
        if tile is None:
            return denoised(noisy)
        one = (lambda pieces: recomputed(denoised, [pieces], weights)) if self.checkpointed else denoised
        return tiled(one, noisy, tile, self.overlap, self.tiles_at_once or 1)

    def _clean(self, now: float, noisy: Tensor, images: Tensor) -> Tensor:
        """The estimate of one step, guided."""
        if self.guidance is None:
            return self._estimate(noisy, now)
        return guided(self._estimate, self.guidance, noisy, images, now, weights_of(self.denoiser))

    def run(self, images: Tensor) -> Tensor:
        """Diffuse, then sample back; at `sigma` 0 the images as they are, without a network call."""
        if self.sigma == 0:
            return images
        own = None if self.seed is None else generator(self.seed)
        levels = self.sampler.levels(self.sigma, self.steps)
        state: _State = (images + levels[0] * self._noise(images, own), None)
        pairs = list(pairwise(levels))
        size = self._nested(len(pairs))
        if size is None:
            return self._walk(pairs, images, state, own)[0]
        for k in range(0, len(pairs), size):
            state = self._segment(pairs[k : k + size], images, state, own)
        return state[0]

    def _nested(self, steps: int) -> int | None:
        """So many steps are recomputed together; None where each is on its own."""
        if self.checkpointed is True:
            return math.ceil(math.sqrt(steps)) if steps > 100 else None
        return int(self.checkpointed) if 1 < self.checkpointed < steps else None

    def _segment(self, pairs: _Pairs, images: Tensor, state: _State, own: torch.Generator | None) -> _State:
        """Some steps of the chain as one that is recomputed, with the noise that it drew, and in it each of them."""
        (noisy, before), drawn = state, None if own is None else own.get_state()
        levels = [] if before is None else [before[1]]

        def walked(noisy: Tensor, images: Tensor, *estimates: Tensor) -> Tensor:
            if own is not None and drawn is not None:
                own.set_state(drawn)
            past = next(zip(estimates, levels, strict=True), None)
            return torch.stack(self._walk(pairs, images, (noisy, past), own))

        estimates = [] if before is None else [before[0]]
        both = recomputed(walked, [noisy, images, *estimates], weights_of(self.denoiser))
        return both[0], (both[1], pairs[-1][0])

    def _walk(self, pairs: _Pairs, images: Tensor, state: _State, own: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Step by step from level to level: where that leads, and the last estimate."""
        weights = weights_of(self.denoiser)
        alone = self.guidance is None and self._tile(images) is not None  # tiles are recomputed, and there is nothing else
        recompute = self.checkpointed and len(pairs) > 1 and not alone
        noisy, before = state
        clean = noisy
        for now, then in pairs:
            step = partial(self._clean, now)
            clean = recomputed(step, [noisy, images], weights) if recompute else step(noisy, images)
            noise = self._noise(images, own) if self.sampler.spread(now, then) > 0 else None
            noisy, before = self.sampler.step(noisy, clean, now, then, noise, before), (clean, now)
        return noisy, clean
