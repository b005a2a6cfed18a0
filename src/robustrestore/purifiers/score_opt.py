"""ScoreOpt (Zhang et al., 2023): move the image to where a denoiser leaves it alone."""

import torch
from torch import Tensor
from torch.func import functional_call

from ..arguments import level, number, whole
from ..arguments import seed as seed_of
from ..diffusion import Denoiser
from ..diffusion.slope import slope
from ..images import per_image
from ..modes import generator, recorded
from ..replicas import weights_of
from ..stage import Purifier

FIRST, SECOND, TINY = 0.9, 0.999, 1e-8  # Adam's decay rates and what keeps its quotient finite (Kingma and Ba, 2015)


class ScoreOpt(Purifier, name="score_opt"):
    """`iterations` steps of Adam on the image x, each down ||D(x + s n) - x||^2 with a new level s and new noise n.

    Zhang et al. (2023), without their further terms. s is uniform in `sigma` +- `spread`, [0, 1] units; the defaults are
    those of the authors' script, halved from [-1, 1] units. The squares are summed over an image, so that neither its size
    nor its batch changes the step. `seed`: a number gives every image the same levels and noise; None draws afresh. An
    iteration costs one call forward and one backward. Gradients are exact, to second order, at the memory of one call and
    six images an iteration if `checkpointed`; yet Adam's first steps are signs, which tell an attacker little: also measure
    the `bpda` view.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sigma: float = 0.125,
        spread: float = 0.05,
        iterations: int = 20,
        lr: float = 0.005,
        seed: int | None = 0,
        checkpointed: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"denoiser: expected a Denoiser, got {type(denoiser).__name__}: wrap it in diffusion.DiscreteTime")
        self.denoiser, self.sigma, self.spread = denoiser, level(sigma), level(spread, "spread")
        if spread > sigma:
            raise ValueError(f"sigma: expected levels with 0 <= spread <= sigma, got sigma {sigma} and spread {spread}")
        self.lr = number(lr, "lr", "a step > 0 in units of [0, 1] images", lambda value: value > 0)
        self.iterations, self.seed, self.checkpointed = whole(iterations, "iterations"), seed_of(seed), checkpointed
        if not isinstance(checkpointed, bool):
            raise TypeError(f"checkpointed: expected True or False, got {checkpointed!r}")

    def run(self, images: Tensor) -> Tensor:
        """Optimise; at `sigma` 0 the images as they are, without a network call."""
        if self.sigma == 0:
            return images
        if torch.is_inference_mode_enabled():  # which has no gradients, and the stage needs its own
            with torch.inference_mode(False), torch.no_grad():
                return self._optimised(images.clone())
        return self._optimised(images.clone() if images.is_inference() else images)

    def _optimised(self, images: Tensor) -> Tensor:
        own = None if self.seed is None else generator(self.seed)
        copies = recorded(self.denoiser)
        x = images if images.dtype.itemsize >= 4 else images.float()
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for k in range(1, self.iterations + 1):
            gradient = self._gradient(x, images, own, copies)
            first = FIRST * first + (1 - FIRST) * gradient
            second = SECOND * second + (1 - SECOND) * gradient.square()
            root = _root(second / (1 - SECOND**k))
            x = x - self.lr * first / (1 - FIRST**k) / (root + TINY)
        return x.to(images.dtype)

    def _gradient(self, x: Tensor, like: Tensor, own: torch.Generator | None, copies: dict[str, Tensor]) -> Tensor:
        """That of the summed squares at a fresh level with fresh noise; the denoiser sees the dtype of `like`.

        `copies`: of its weights that were made under inference_mode.
        """
        count = len(x) if own is None else 1
        share = torch.rand(count, generator=own, device=None if own is not None else x.device)
        sigma = (self.sigma + self.spread * (2 * share - 1)).to(x).expand(len(x))
        noise = torch.randn(count, *x.shape[1:], generator=own, device=None if own is not None else x.device).to(x)
        offset = per_image(sigma, x) * noise

        def loss(place: Tensor) -> Tensor:
            shown = (place + offset).to(like.dtype), sigma.to(like.dtype)
            estimate: Tensor = functional_call(self.denoiser, copies, shown) if copies else self.denoiser(*shown)
            return (estimate.to(place) - place).square().sum()

        return slope(loss, x, () if copies else weights_of(self.denoiser), self.checkpointed)


def _root(values: Tensor) -> Tensor:
    """The square root, with derivative 0 at 0: of a square it is the size, whose slope there is lost, not infinite."""
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1).sqrt(), 0)
