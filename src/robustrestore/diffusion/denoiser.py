"""Denoiser: the one convention, (noisy image, sigma) -> expected clean image, all in [0, 1] units (after k-diffusion)."""

from abc import abstractmethod
from typing import final

import torch
from torch import Tensor, nn

from ..component import Component
from ..images import check_shape, pad_to_multiple


class Denoiser(Component, nn.Module, kind="denoisers"):
    """Estimates E[clean | noisy] where noisy = clean + sigma * standard normal noise. Plug-ins write `run`.

    Values of `noisy` lie around [0, 1], not in it. `forward` pads to `multiple` and crops; plug-ins see one sigma an
    image.
    """

    multiple: int = 1

    def __init__(self) -> None:
        super().__init__()

    @final  # type: ignore[misc]
    def forward(self, noisy: Tensor, sigma: Tensor | float) -> Tensor:
        """The estimate [N, C, H, W]; sigma is a number or [N], each >= 0, in the units of [0, 1] images."""
        check_shape(noisy, "noisy")
        levels = torch.as_tensor(sigma, dtype=noisy.dtype, device=noisy.device)
        if levels.shape not in ((), (1,), (len(noisy),)):
            raise ValueError(
                f"sigma: expected a number or one level for each of {len(noisy)} images, got shape {list(levels.shape)}"
            )
        levels = levels.expand(len(noisy))
        padded = pad_to_multiple(noisy, self.multiple)
        estimate = self.run(padded, levels)
        if estimate.shape != padded.shape:
            raise ValueError(
                f"{type(self).__name__}: expected an estimate of shape {list(padded.shape)}, got {list(estimate.shape)}"
            )
        return estimate[..., : noisy.shape[-2], : noisy.shape[-1]]

    @abstractmethod
    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The estimate for images whose size divides by `multiple` and levels [N]."""


class NoiseConditioned(Denoiser, name="noise_conditioned"):
    """Any module called as `network(noisy, sigma [N]) -> clean image`.

    `scale` and `shift` say in which units it works: it is handed `scale * x + shift` and `scale * sigma`, and its answer
    is turned back (2 and -1 for a network on [-1, 1] images).
    """

    def __init__(self, network: nn.Module, scale: float = 1.0, shift: float = 0.0, multiple: int = 1) -> None:
        super().__init__()
        self.network, self.scale, self.shift, self.multiple = network, float(scale), float(shift), multiple

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Into the network's units and back."""
        estimate: Tensor = self.network(self.scale * noisy + self.shift, self.scale * sigma)
        return (estimate - self.shift) / self.scale
