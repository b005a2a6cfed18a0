"""The steps of a sampler, one after the other, recomputed in the backward pass: what purifiers that sample share."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..diffusion import Sampler
from ..diffusion.recompute import recomputed
from ..modes import generator

_Pairs = Sequence[tuple[float, float]]  # the levels that steps lead from and to
_State = tuple[Tensor, tuple[Tensor, float] | None]  # an image between two steps, and the last estimate with its level


def checked_checkpoints(checkpointed: Any) -> bool | int:
    """True, False or a number of steps that are recomputed together."""
    if not isinstance(checkpointed, Integral) or checkpointed < 0:
        raise ValueError(f"checkpointed: expected True, False or a number of steps >= 1, got {checkpointed!r}")
    return checkpointed if isinstance(checkpointed, bool) else int(checkpointed)


class Chain:
    """From a noisy image down the levels of a sampler, with estimates `clean(level, noisy, images)` of the purifier.

    `seed`: a number gives every image the same noise whatever its batch; None draws from PyTorch's global generator.
    `checkpointed`: as in `Diffusion`; with `stepwise` the single steps are recomputed too, and not what they consist of alone.
    `weights`: those of the denoiser, the only ones that get a gradient.
    """

    def __init__(
        self,
        sampler: Sampler,
        clean: Callable[[float, Tensor, Tensor], Tensor],
        weights: Sequence[Tensor],
        seed: int | None,
        checkpointed: bool | int,
        stepwise: bool = True,
    ) -> None:
        self.sampler, self.clean, self.weights, self.checkpointed = sampler, clean, weights, checkpointed
        self.stepwise, self.own = stepwise, None if seed is None else generator(seed)

    def noise(self, images: Tensor) -> Tensor:
        """The next standard normal draw, in the shape of the images."""
        if self.own is None:
            return torch.randn_like(images)
        one = torch.randn(1, *images.shape[1:], generator=self.own, dtype=torch.float32)
        return one.to(images).expand_as(images)

    def down(self, levels: Sequence[float], noisy: Tensor, images: Tensor) -> Tensor:
        """The image at the last of the levels; `images`: what estimates are shown beside the noisy one."""
        pairs = list(pairwise(levels))
        state: _State = (noisy, None)
        size = self._nested(len(pairs))
        if size is None:
            return self._walk(pairs, images, state)[0]
        for k in range(0, len(pairs), size):
            state = self._segment(pairs[k : k + size], images, state)
        return state[0]

    def _nested(self, steps: int) -> int | None:
        """So many steps are recomputed together; None where each is on its own."""
        if self.checkpointed is True:
            return math.ceil(math.sqrt(steps)) if steps > 100 else None
        return int(self.checkpointed) if 1 < self.checkpointed < steps else None

    def _segment(self, pairs: _Pairs, images: Tensor, state: _State) -> _State:
        """Some steps of the chain as one that is recomputed, with the noise that it drew, and in it each of them."""
        (noisy, before), own = state, self.own
        drawn = None if own is None else own.get_state()
        levels = [] if before is None else [before[1]]

        def walked(noisy: Tensor, images: Tensor, *estimates: Tensor) -> Tensor:
            if own is not None and drawn is not None:
                own.set_state(drawn)
            past = next(zip(estimates, levels, strict=True), None)
            return torch.stack(self._walk(pairs, images, (noisy, past)))

        estimates = [] if before is None else [before[0]]
        both = recomputed(walked, [noisy, images, *estimates], self.weights)
        return both[0], (both[1], pairs[-1][0])

    def _walk(self, pairs: _Pairs, images: Tensor, state: _State) -> tuple[Tensor, Tensor]:
        """Step by step from level to level: where that leads, and the last estimate."""
        recompute = self.checkpointed and self.stepwise and len(pairs) > 1
        noisy, before = state
        clean = noisy
        for now, then in pairs:
            step = partial(self.clean, now)
            clean = recomputed(step, [noisy, images], self.weights) if recompute else step(noisy, images)
            noise = self.noise(images) if self.sampler.spread(now, then) > 0 else None
            noisy, before = self.sampler.step(noisy, clean, now, then, noise, before), (clean, now)
        return noisy, clean
