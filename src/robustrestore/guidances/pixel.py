"""Guidance by pixels of GDMP (Wang et al., 2022): squared error or structural similarity to the input.

GDMP's scale grows with sigma: power 1, and for squared error strength 8 / m, where m is its constant times the number of
values that its mean runs over, the authors' batch included; a factor 1 / (1 + 4 sigma^2) is left out (our choice).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..diffusion.guidance import GradientGuidance, Reference, check_amount
from ._networks import wide
from .references import check_reference

WINDOW, SPREAD = 11, 1.5  # SSIM's Gaussian window, in pixels
STEADY = (0.01**2, 0.03**2)  # its constants, for values in [0, 1]


class _Near(GradientGuidance):
    """What the two share: strength grows with a power of sigma, and what images are compared with."""

    def __init__(self, strength: float, power: float, reference: Reference | None) -> None:
        super().__init__(strength)
        self.power, self.reference = check_amount(power, "power"), check_reference(reference)

    def _target(self, given: Tensor, sigma: Tensor) -> Tensor:
        return wide(given if self.reference is None else self.reference.run(given, sigma))

    def _grown(self, values: Tensor, sigma: Tensor) -> Tensor:
        return values * sigma.pow(self.power) if self.power else values


class PixelGuidance(_Near, name="pixel"):
    """Towards the input by squared error, summed over pixels, as GDMP does (Wang et al., 2022).

    log p = -strength sigma^power |noisy - reference|^2; the default strength is our choice, and 2 strength sigma^(2 + power)
    beyond 1 overshoots. `reference`: None for the input as it is (its ImageNet setting), `Renoised` for CIFAR-10's.
    """

    def __init__(self, strength: float = 100.0, power: float = 1.0, reference: Reference | None = None) -> None:
        super().__init__(strength, power, reference)

    def likelihood(self, seen: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
        """The negative squared error, [N]."""
        return -self._grown((wide(seen) - self._target(given, sigma)).square().flatten(1).sum(1), sigma)


class SSIMGuidance(_Near, name="ssim"):
    """Towards the input by structural similarity, GDMP's other distance (Wang et al., 2022).

    log p = strength sigma^power pixels SSIM(noisy, reference), a Gaussian window of 1.5 pixels. SSIM is a mean over pixels;
    times their number a strength means the same for images of every size. The defaults are our choice.
    ValueError below 11 x 11 pixels.
    """

    def __init__(self, strength: float = 0.1, power: float = 1.0, reference: Reference | None = None) -> None:
        super().__init__(strength, power, reference)

    def likelihood(self, seen: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
        """The similarity, summed over positions of the window, averaged over channels, [N]."""
        return self._grown(similarity(wide(seen), self._target(given, sigma)).mean(1).flatten(1).sum(1), sigma)


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM (Wang et al., 2004) at each position where the window fits: [N, C, H - 10, W - 10]."""
    count, channels, height, width = first.shape
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM: expected images of at least {WINDOW} x {WINDOW} pixels, got {height} x {width}")
    place = torch.arange(WINDOW, device=first.device, dtype=first.dtype) - WINDOW // 2
    row = (-(place.square()) / (2 * SPREAD**2)).exp()
    maps = torch.stack([first, second, first * first, second * second, first * second]).reshape(1, -1, height, width)
    rows = (row / row.sum()).expand(maps.shape[1], 1, 1, -1)  # each map a channel: many times faster than each an image
    smooth = F.conv2d(F.conv2d(maps, rows, groups=len(rows)), rows.mT, groups=len(rows))
    a, b, aa, bb, ab = smooth.view(5, count, channels, height - WINDOW + 1, width - WINDOW + 1).unbind(0)
    mean, spread = STEADY
    structure = (2 * (ab - a * b) + spread) / (aa - a * a + bb - b * b + spread)
    return (2 * a * b + mean) / (a * a + b * b + mean) * structure
