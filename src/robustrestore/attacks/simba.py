"""SimBA (Guo et al., 2019): a simple black-box attack, one direction after the other."""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from ..black_box import BlackBox, Draws, Oracle
from ..images import per_image
from ..threat import Threat


class Directions(BlackBox):
    """Greedy steps along orthonormal directions in random order (Guo et al., 2019). Final classes say along which.

    From where an image stands, a step back along the next direction is tried, then one forth; the first that raises the gain
    stays. Once all directions are through they come again in the same order (our choice), as long as queries are left.
    """

    seed: int | None
    step: float

    def __init__(self, threat: Threat, queries: int, step: float, seed: int | None) -> None:
        super().__init__(threat, queries)
        if not step > 0:
            raise ValueError(f"step: expected a length > 0, got {step}")
        self.step, self.seed = float(step), seed

    def hunt(self, oracle: Oracle, gain: Tensor) -> None:
        """Every image at a direction and sign of its own: one that gained nothing still has to try the other sign."""
        current = oracle.original
        total = self.count(current)
        order = Draws(self.seed).uniform(current, total).argsort(dim=1)
        place, sign = torch.zeros_like(gain, dtype=torch.long), -torch.ones_like(gain)
        while oracle.left:
            chosen = order.gather(1, (place % total)[:, None])[:, 0]
            moved = current + per_image(sign * self.step, current) * self.direction(chosen, current)
            candidate = self.threat.project(moved, oracle.original)
            now = oracle.ask(candidate)
            better = now > gain
            current, gain = torch.where(per_image(better, current), candidate, current), torch.where(better, now, gain)
            onward = better | (sign > 0)
            place, sign = place + onward, torch.where(onward, -1.0, 1.0).to(sign)
            if (kept := oracle.drop()) is not None:
                current, gain, order, place, sign = (one[kept] for one in (current, gain, order, place, sign))

    @abstractmethod
    def count(self, images: Tensor) -> int:
        """How many directions there are for such images."""

    @abstractmethod
    def direction(self, chosen: Tensor, images: Tensor) -> Tensor:
        """The directions numbered `chosen` [n], each of length 1, shaped and placed like `images` [n, C, H, W]."""


class SimBA(Directions, name="simba"):
    """SimBA along single values of the image, one channel of one pixel each (Guo, Gardner, You, Wilson and Weinberger, 2019).

    `step`: how far one goes, in [0, 1] units, 0.2 in the paper; what leaves the threat is projected back.
    """

    def __init__(self, threat: Threat, queries: int = 5000, step: float = 0.2, seed: int | None = 0) -> None:
        super().__init__(threat, queries, step, seed)

    def count(self, images: Tensor) -> int:
        """C H W."""
        return images.shape[1:].numel()

    def direction(self, chosen: Tensor, images: Tensor) -> Tensor:
        """1 at one value."""
        return torch.zeros_like(images).flatten(1).scatter(1, chosen[:, None], 1.0).view_as(images)


class SimBADCT(Directions, name="simba_dct"):
    """SimBA along low frequencies (Guo et al., 2019): waves of the discrete cosine transform in one channel each.

    `frequencies`: which share of them along each axis, from the lowest on; 1/8 is our choice. `step`: length of a step.
    """

    def __init__(
        self, threat: Threat, queries: int = 5000, step: float = 0.2, frequencies: float = 1 / 8, seed: int | None = 0
    ) -> None:
        super().__init__(threat, queries, step, seed)
        if not 0 < frequencies <= 1:
            raise ValueError(f"frequencies: expected a share in (0, 1], got {frequencies}")
        self.frequencies = float(frequencies)

    def _kept(self, length: int) -> int:
        return max(1, math.ceil(self.frequencies * length))

    def count(self, images: Tensor) -> int:
        """Channels times frequencies down times frequencies across."""
        return images.shape[1] * self._kept(images.shape[2]) * self._kept(images.shape[3])

    def direction(self, chosen: Tensor, images: Tensor) -> Tensor:
        """A wave down times a wave across, in one channel."""
        height, width = images.shape[2:]
        down, across = self._kept(height), self._kept(width)
        channel = chosen // (down * across)
        waves = [
            _wave(chosen // across % down, height).to(images)[:, None, :, None],
            _wave(chosen % across, width).to(images)[:, None, None, :],
        ]
        here = torch.arange(images.shape[1], device=images.device) == channel[:, None]
        return here[..., None, None] * waves[0] * waves[1]


def _wave(frequency: Tensor, length: int) -> Tensor:
    """Orthonormal cosines of these whole frequencies [n, length], the DCT-II basis."""
    middle = torch.arange(length, device=frequency.device, dtype=torch.float64) + 0.5
    scale = torch.where(frequency == 0, 1.0, 2.0).double().div(length).sqrt()
    return scale[:, None] * torch.cos(math.pi / length * frequency[:, None] * middle)
