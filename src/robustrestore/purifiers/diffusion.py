"""Purification by diffusion (Nie et al., 2022): add noise, then denoise it away, and the attack with it."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..diffusion import DDIM, Denoiser, Guidance, Sampler
from ..diffusion.guidance import guided
from ..images import tiled
from ..modes import generator
from ..stage import Purifier


class Diffusion(Purifier, name="diffusion"):
    """Noise of standard deviation `sigma` ([0, 1] units), then `steps` of `sampler` back to sigma 0 (Nie et al., 2022).

    `seed`: a number gives every image the same noise whatever its batch, so the stage is a fixed function; None draws
    afresh from PyTorch's global generator. `tile`: at most that many pixels on a side go through the network at once,
    blended over `overlap`; noise is drawn for the whole image, so tiling does not change what is sampled. `checkpointed`:
    recompute each network call in the backward pass, so that exact gradients through many steps need the memory of one.
    `guidance`: corrects each estimate by the stage's input; it sees the whole image, tiles are for the denoiser alone.
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
        self.denoiser, self.sigma, self.steps = denoiser, float(sigma), steps
        self.sampler: Sampler = DDIM() if sampler is None else sampler
        if not isinstance(guidance, Guidance | None):
            raise TypeError(f"guidance: expected a Guidance such as guidances.PixelGuidance(), got {type(guidance).__name__}")
        self.seed, self.tile, self.overlap, self.checkpointed = seed, tile, overlap, checkpointed
        self.guidance = guidance

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

    def _estimate(self, noisy: Tensor, sigma: float) -> Tensor:
        if self.tile is None:
            out: Tensor = self.denoiser(noisy, sigma)
            return out
        return tiled(lambda piece: self.denoiser(piece, sigma), noisy, self.tile, self.overlap)

    def _clean(self, noisy: Tensor, images: Tensor, now: float, recompute: bool) -> Tensor:
        """The estimate of one step, guided. Guidance is recomputed apart: its own gradient would call the denoiser again."""
        call = partial(checkpoint, use_reentrant=False) if recompute else _call
        guidance = self.guidance
        if guidance is not None and guidance.through:
            through: Tensor = call(guided, self._estimate, guidance, noisy, images, now, list(self.denoiser.parameters()))
            return through
        estimate: Tensor = call(self._estimate, noisy, now)
        return estimate if guidance is None else call(guidance, estimate, noisy, images, now)

    def run(self, images: Tensor) -> Tensor:
        """Diffuse, then sample back; at `sigma` 0 the images as they are, without a network call."""
        if self.sigma == 0:
            return images
        own = None if self.seed is None else generator(self.seed)
        levels = self.sampler.levels(self.sigma, self.steps)
        noisy = images + levels[0] * self._noise(images, own)
        leaves = noisy.requires_grad or any(weight.requires_grad for weight in self.denoiser.parameters())
        recompute = self.checkpointed and len(levels) > 2 and torch.is_grad_enabled() and leaves
        before: tuple[Tensor, float] | None = None
        for now, then in pairwise(levels):
            clean = self._clean(noisy, images, now, recompute)
            noise = self._noise(images, own) if self.sampler.spread(now, then) > 0 else None
            noisy, before = self.sampler.step(noisy, clean, now, then, noise, before), (clean, now)
        return noisy


def _call(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    return function(*inputs)
