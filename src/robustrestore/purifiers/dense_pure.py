"""DensePure (Xiao et al., 2023): the reverse process from an image that holds the noise already; several runs and a vote."""

from torch import Tensor

from ..arguments import number, whole
from ..arguments import seed as seed_of
from ..diffusion import DDPM, Denoiser, Sampler
from ..replicas import weights_of
from ..stage import Purifier
from ._chain import Chain, checked_checkpoints


class DensePure(Purifier, name="dense_pure"):
    """`steps` of `sampler` down from level `sigma` ([0, 1] units), no noise added before (Xiao et al., 2023).

    For images under smoothing noise of that level: in front of a model inside `certify.SmoothedClassifier`, with
    `DefendedPipeline(..., vote=MajorityVote(runs))` for the paper's vote. One step is `Denoise`. `seed`: a number gives every
    image the same draws whatever its batch, so the stage is a fixed function; None draws afresh. Steps evenly in sigma are our
    choice; hand over a sampler on another grid for theirs. `checkpointed`: as in `Diffusion`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sigma: float = 0.25,
        steps: int = 5,
        sampler: Sampler | None = None,
        seed: int | None = 0,
        checkpointed: bool | int = True,
    ) -> None:
        super().__init__()
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"denoiser: expected a Denoiser such as rr.assets.prior(), got {type(denoiser).__name__}")
        if not isinstance(sampler, Sampler | None):
            raise TypeError(f"sampler: expected a Sampler such as diffusion.DDPM(), got {type(sampler).__name__}")
        self.denoiser, self.steps, self.seed = denoiser, whole(steps, "steps"), seed_of(seed)
        self.sigma = number(sigma, "sigma", "a finite level above 0 in units of [0, 1] images", lambda value: value > 0)
        self.sampler: Sampler = DDPM() if sampler is None else sampler
        self.checkpointed = checked_checkpoints(checkpointed)

    def _clean(self, now: float, noisy: Tensor, images: Tensor) -> Tensor:
        estimate: Tensor = self.denoiser(noisy, now)
        return estimate

    def run(self, images: Tensor) -> Tensor:
        """Down the levels, the image itself at the first."""
        chain = Chain(self.sampler, self._clean, weights_of(self.denoiser), self.seed, self.checkpointed)
        return chain.down(self.sampler.levels(self.sigma, self.steps), images, images)
