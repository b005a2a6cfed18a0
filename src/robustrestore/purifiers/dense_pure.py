"""DensePure (Xiao et al., 2023): the reverse process from an image that holds the noise already; several runs and a vote."""

from itertools import pairwise

import torch
from torch import Tensor

from ..diffusion import DDPM, Denoiser, Sampler
from ..modes import generator
from ..stage import Purifier


class DensePure(Purifier, name="dense_pure"):
    """`steps` of `sampler` down from level `sigma` ([0, 1] units), no noise added before (Xiao et al., 2023).

    For images under smoothing noise of that level: in front of a model inside `certify.SmoothedClassifier`, with
    `DefendedPipeline(..., vote=MajorityVote(runs))` for the paper's vote. One step is `Denoise`. `seed`: a number gives every
    image the same draws whatever its batch, so the stage is a fixed function; None draws afresh. Steps evenly in sigma are our
    choice; hand over a sampler on another grid for theirs.
    """

    def __init__(
        self, denoiser: Denoiser, sigma: float = 0.25, steps: int = 5, sampler: Sampler | None = None, seed: int | None = 0
    ) -> None:
        super().__init__()
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"denoiser: expected a Denoiser such as rr.assets.prior(), got {type(denoiser).__name__}")
        if not 0 < sigma < float("inf") or steps < 1:
            raise ValueError(f"sigma, steps: expected a finite level above 0 and at least one step, got {sigma}, {steps}")
        self.denoiser, self.sigma, self.steps, self.seed = denoiser, float(sigma), steps, seed
        self.sampler: Sampler = DDPM() if sampler is None else sampler

    def run(self, images: Tensor) -> Tensor:
        """Down the levels, the image itself at the first."""
        own = None if self.seed is None else generator(self.seed)
        noisy, before = images, None
        for now, then in pairwise(self.sampler.levels(self.sigma, self.steps)):
            clean = self.denoiser(noisy, now)
            noise = self._noise(images, own) if self.sampler.spread(now, then) > 0 else None
            noisy, before = self.sampler.step(noisy, clean, now, then, noise, before), (clean, now)
        return noisy

    def _noise(self, images: Tensor, own: torch.Generator | None) -> Tensor:
        if own is None:
            return torch.randn_like(images)
        one = torch.randn(1, *images.shape[1:], generator=own, dtype=torch.float32)
        return one.to(images).expand_as(images)
