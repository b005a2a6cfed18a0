"""Guidance by frequencies of FreqPure (Pei et al., 2025): low ones are the input's, in amplitude and nearly in phase."""

import math

import torch
from torch import Tensor

from ..diffusion.guidance import Guidance, Reference, check_amount
from ._networks import wide
from .references import check_reference

FAINT = 1e-20  # squared amplitude below which a phase means nothing


class FrequencyGuidance(Guidance, name="frequency"):
    """Gives each estimate the input's low-frequency amplitude, and a phase near the input's (FreqPure, Pei et al., 2025).

    Within `amplitude` cycles an image the amplitude is that of the reference; within `phase` cycles the phase is at most
    `delta` radians away from its. `reference`: None for the input as it is, `Denoised` for a one-step estimate of it. No
    gradient of its own, so no strength. The defaults are our choice: the published cut-offs depend on the image size.
    """

    def __init__(
        self, amplitude: float = 3.0, phase: float = 2.0, delta: float = 0.2, reference: Reference | None = None
    ) -> None:
        super().__init__()
        if not 0 <= delta <= math.pi:
            raise ValueError(f"delta: expected an angle in [0, pi], got {delta}")
        self.amplitude, self.phase = check_amount(amplitude, "amplitude"), check_amount(phase, "phase")
        self.delta, self.reference = float(delta), check_reference(reference)

    def run(self, estimate: Tensor, noisy: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
        """The exchange, in one transform of the batch."""
        reference = given if self.reference is None else self.reference.run(given, sigma)
        height, width = estimate.shape[-2:]
        own, other = (torch.fft.rfft2(wide(images)) for images in (estimate, reference))
        changed = torch.cat(self._exchanged(own, other, height, width), dim=-1)
        out: Tensor = torch.fft.irfft2(changed, s=(height, width)).to(estimate.dtype)
        return out

    def _exchanged(self, own: Tensor, other: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The columns of the spectrum that low frequencies are in, changed, and the others as they are."""
        highest = max(self.amplitude, self.phase)
        low = min(math.floor(highest) + 1, own.shape[-1])
        across = torch.fft.rfftfreq(width, 1 / width, device=own.device)[:low]
        down = torch.fft.fftfreq(height, 1 / height, device=own.device)
        radius = torch.hypot(down[:, None], across)
        wanted, towards = _polar(other[..., :low], 1)
        length, direction = _polar(own[..., :low], towards)
        length = torch.where(radius <= self.amplitude, wanted, length)
        direction = torch.where(radius <= self.phase, towards * self._turn(direction, towards), direction)
        return torch.where(radius <= highest, length * direction, own[..., :low]), own[..., low:]

    def _turn(self, direction: Tensor, towards: Tensor) -> Tensor:
        """The turn from `towards` to `direction`, at most `delta`."""
        between = direction * towards.conj()
        angle = torch.atan2(between.imag, between.real).clamp(-self.delta, self.delta)
        return torch.polar(torch.ones_like(angle), angle)


def _polar(values: Tensor, otherwise: Tensor | int) -> tuple[Tensor, Tensor]:
    """Length and direction of complex numbers, `otherwise` at 0, with gradients that stay finite there."""
    squared = values.real.square() + values.imag.square()
    clear = squared > FAINT
    length = squared.where(clear, 1).sqrt()
    return length * clear, (values / length).where(clear, otherwise)
