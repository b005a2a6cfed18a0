"""What guidance compares with in place of the input as it is: the input with new noise, or a denoised one."""

import torch
from torch import Tensor

from ..arguments import level
from ..arguments import seed as seed_of
from ..diffusion import Denoiser
from ..diffusion.guidance import Reference
from ..images import per_image
from ..modes import generator
from ..runs import spawn
from ._networks import frozen, wide

STEP = 1e-6  # levels nearer than this share their noise


class Renoised(Reference, name="renoised"):
    """The input diffused to the level of the step, as in GDMP on CIFAR-10 (Wang et al., 2022).

    With a `seed` the noise depends on the level alone, so it is new in each step and the same for every image, whatever its
    batch (one synchronisation a step); None draws afresh from PyTorch's global generator.
    """

    def __init__(self, seed: int | None = 0) -> None:
        super().__init__()
        self.seed = seed_of(seed)

    def run(self, given: Tensor, sigma: Tensor) -> Tensor:
        """Images at the levels [N] of the step."""
        return _diffused(given, sigma, self.seed)


class Denoised(Reference, name="denoised"):
    """A one-step estimate of the input, diffused to `sigma`, as FreqPure's code makes (Pei et al., 2025).

    `sigma`: 0.0864 is 50 steps of the linear schedule; our choice of the default. Noise as in `Renoised`, the same in each
    step. One more call of the denoiser, whose weights get no gradient here, a step.
    """

    def __init__(self, denoiser: Denoiser, sigma: float = 0.0864, seed: int | None = 0) -> None:
        super().__init__()
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"denoiser: expected a Denoiser, got {type(denoiser).__name__}")
        self.denoiser, self.sigma, self.seed = denoiser, level(sigma), seed_of(seed)

    def run(self, given: Tensor, sigma: Tensor) -> Tensor:
        """The estimates, whatever the level of the step."""
        own = torch.full_like(sigma, self.sigma)
        estimate: Tensor = frozen(self.denoiser, _diffused(given, own, self.seed), self.sigma)
        return estimate


def check_reference(reference: Reference | None) -> Reference | None:
    """The reference itself; TypeError where it is neither a Reference nor None."""
    if not isinstance(reference, Reference | None):
        raise TypeError(
            f"reference: expected None for the input as it is, or a Reference such as guidances.Renoised(), "
            f"got {type(reference).__name__}"
        )
    return reference


def _diffused(given: Tensor, sigma: Tensor, seed: int | None) -> Tensor:
    if seed is None:
        noise = torch.randn_like(given)
    else:
        keys = [round(one / STEP) for one in sigma.tolist()]
        drawn = {key: _drawn(given, seed, key) for key in keys}
        noise = drawn[keys[0]].expand_as(given) if len(drawn) == 1 else torch.stack([drawn[key] for key in keys])
    return (wide(given) + per_image(sigma, given) * noise).to(given.dtype)


def _drawn(images: Tensor, seed: int, key: int) -> Tensor:
    return torch.randn(images.shape[1:], generator=generator(spawn(seed, f"level {key}"))).to(images)
