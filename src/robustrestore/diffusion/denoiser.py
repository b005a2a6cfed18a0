"""Denoiser: the one convention, (noisy image, sigma) -> expected clean image, all in [0, 1] units (after k-diffusion)."""

import math
from abc import abstractmethod
from typing import Any, final

import torch
from torch import Tensor, nn

from ..arguments import whole
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
        """The estimate [N, C, H, W]; sigma is a number or [N], each finite and >= 0, in the units of [0, 1] images.

        Levels that lie on another device than the CPU are not looked at: that would cost a synchronisation.
        """
        check_shape(noisy, "noisy")
        _check_levels(sigma)
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
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: expected a finite number above 0, got {scale}")
        if not math.isfinite(shift):
            raise ValueError(f"shift: expected a finite number, got {shift}")
        self.network, self.scale, self.shift = network, float(scale), float(shift)
        self.multiple = checked_multiple(multiple)

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Into the network's units and back."""
        estimate = answer(self.network(self.scale * noisy + self.shift, self.scale * sigma), self.network, noisy)
        return (estimate - self.shift) / self.scale


def answer(found: Any, network: Any, images: Tensor) -> Tensor:
    """What a foreign network returned for `images`, once it is known to be floating and of their shape."""
    name = type(network).__name__
    if not isinstance(found, Tensor):
        raise TypeError(f"{name}: expected a tensor of images, got {type(found).__name__}")
    if not found.is_floating_point():
        raise TypeError(f"{name}: expected a floating tensor of images, got {found.dtype}")
    if found.shape != images.shape:
        raise ValueError(f"{name}: expected an estimate of shape {list(images.shape)}, got {list(found.shape)}")
    return found


def checked_multiple(multiple: int) -> int:
    """The multiple, as Python's own number; ValueError unless sizes can divide by it."""
    return whole(multiple, "multiple")


def _check_levels(sigma: Any) -> None:
    """Raise ValueError for levels below 0 or not finite, where that can be seen without waiting for a device."""
    if torch.compiler.is_compiling():
        return
    if isinstance(sigma, int | float):
        low = high = float(sigma)
    else:
        levels = torch.as_tensor(sigma)
        if levels.device.type != "cpu" or levels.numel() == 0:
            return
        low, high = (float(end) for end in torch.aminmax(levels.detach()))
    if not 0 <= low <= high < math.inf:
        raise ValueError(f"sigma: expected finite levels >= 0, got {low:.4g}{'' if low == high else f' to {high:.4g}'}")
