"""OnEstimate: guidance that looks at the estimate of the clean image in place of the noisy one."""

import torch
from torch import Tensor

from ..diffusion.guidance import GradientGuidance, Guidance


class OnEstimate(Guidance, name="on_estimate"):
    """Any guidance by a gradient, shown Tweedie's estimate, as in DPS (Chung et al., 2023).

    The gradient is taken in the noisy image, through the denoiser: a backward pass through it in each step (for an attacker
    of second order).
    """

    def __init__(self, guidance: GradientGuidance) -> None:
        super().__init__()
        if not isinstance(guidance, GradientGuidance):
            raise TypeError(f"guidance: expected one by a gradient, such as PixelGuidance, got {type(guidance).__name__}")
        self.guidance, self.through = guidance, guidance.strength > 0

    def run(self, estimate: Tensor, noisy: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
        """The estimate moved along the gradient through the denoiser; ValueError for one that comes without its graph."""
        if not self.through:
            return estimate
        if not (estimate.requires_grad and noisy.requires_grad):
            raise ValueError("estimate: expected one with the graph that leads to noisy: let diffusion.guided make it")
        slope = self.guidance.slope(estimate, noisy, given, sigma, torch.is_grad_enabled())
        return self.guidance.pulled(estimate, slope, sigma)
