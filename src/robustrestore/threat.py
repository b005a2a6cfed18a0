"""Threat: what an attacker may change."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from .component import Component
from .images import per_image


class Threat(Component, kind="threats"):
    """A set of allowed images around each original, inside [0, 1]. A value: it holds its size `eps` and no tensor.

    Plug-ins write `limit`, `draw`, `steepest` and `size`; the box [0, 1] is kept here.
    """

    def __init__(self, eps: float) -> None:
        if not (math.isfinite(eps) and eps >= 0):
            raise ValueError(f"eps: expected a finite size >= 0 in units of [0, 1] images, got {eps}")
        self.eps = float(eps)

    def project(self, images: Tensor, original: Tensor) -> Tensor:
        """The allowed image nearest to each of `images` [N, C, H, W], or near it: ball first, then [0, 1]."""
        return (original + self.limit(images - original)).clamp(0, 1)

    def random(self, original: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An allowed image for each original, uniform in the ball before the cut to [0, 1]."""
        return self.project(original + self.draw(original, generator), original)

    @abstractmethod
    def limit(self, delta: Tensor) -> Tensor:
        """`delta` [N, C, H, W] brought into the ball."""

    @abstractmethod
    def draw(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """A change drawn uniformly from the ball, shaped like `like`."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """The change of size 1 along which a linear function with this gradient rises fastest."""

    @abstractmethod
    def size(self, delta: Tensor) -> Tensor:
        """The size of each change [N]; at most `eps` where allowed."""


def _noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else like.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=torch.float32).to(like)


def as_threat(value: object) -> Threat:
    """`value` if it is a threat; TypeError that says how to make one otherwise."""
    if isinstance(value, Threat):
        return value
    example = f"Linf({value})" if isinstance(value, int | float) else "Linf(8 / 255)"
    raise TypeError(f"threat: expected a Threat, got {type(value).__name__}: write rr.{example} or rr.L2(0.5)")


class Linf(Threat, name="linf"):
    """Each value may move by at most `eps`, in units of [0, 1] images: `Linf(8 / 255)`."""

    def __init__(self, eps: float) -> None:
        super().__init__(eps)
        if eps > 1:
            raise ValueError(f"eps: expected a size in units of [0, 1] images, got {eps}: write Linf({eps} / 255)")

    def limit(self, delta: Tensor) -> Tensor:
        """Cut every entry to [-eps, eps]."""
        return delta.clamp(-self.eps, self.eps)

    def draw(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Uniform in [-eps, eps] per entry."""
        device = generator.device if generator is not None else like.device
        uniform = torch.rand(like.shape, generator=generator, device=device, dtype=torch.float32)
        return ((2 * uniform - 1) * self.eps).to(like)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The sign (0 where the gradient is 0)."""
        return gradient.sign()

    def size(self, delta: Tensor) -> Tensor:
        """The largest absolute entry [N]."""
        return delta.abs().flatten(1).amax(dim=1)


class NormalisedLinf(Threat, name="normalised_linf"):
    """Each value may move by at most `eps` after division by its channel's `std`: `Linf` where a model normalises.

    In [0, 1] units a box of `eps * std` per channel. `std` is ImageNet's by default; one value serves all channels.
    """

    def __init__(self, eps: float = 1.0, std: Sequence[float] = (0.229, 0.224, 0.225)) -> None:
        super().__init__(eps)
        if len(std) == 0 or not all(math.isfinite(value) and value > 0 for value in std):
            raise ValueError(f"std: expected finite values > 0, one a channel, got {list(std)}")
        self.std = [float(value) for value in std]

    def _row(self, like: Tensor) -> Tensor:
        channels = like.shape[1]
        if len(self.std) not in (1, channels):
            raise ValueError(f"std: expected one value for each of {channels} channels, got {len(self.std)}")
        return torch.tensor(self.std, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)

    def limit(self, delta: Tensor) -> Tensor:
        """Cut every entry to `eps` times its channel's `std`."""
        most = self.eps * self._row(delta)
        return torch.minimum(torch.maximum(delta, -most), most)

    def draw(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Uniform in the box."""
        return Linf(1.0).draw(like, generator) * self.eps * self._row(like)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The sign times `std` (0 where the gradient is 0)."""
        return gradient.sign() * self._row(gradient)

    def size(self, delta: Tensor) -> Tensor:
        """The largest absolute entry of the change over `std` [N]."""
        return (delta / self._row(delta)).abs().flatten(1).amax(dim=1)


class L2(Threat, name="l2"):
    """The Euclidean length of an image's whole change may be at most `eps`, in units of [0, 1] images: `L2(0.5)`."""

    def limit(self, delta: Tensor) -> Tensor:
        """Shrink what is longer than `eps`."""
        length = per_image(self.size(delta), delta)
        return delta * torch.where(length > self.eps, self.eps / length, 1.0)

    def draw(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Uniform in the ball: a Gaussian direction, a radius of U^(1/d)."""
        direction = self.steepest(_noise(like, generator))
        device = generator.device if generator is not None else like.device
        uniform = torch.rand(len(like), generator=generator, device=device, dtype=torch.float32).to(like)
        return direction * per_image(self.eps * uniform ** (1 / like.shape[1:].numel()), like)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The gradient at length 1 (0 where it is 0), however faint: a model sure of itself hides no direction."""
        largest = per_image(gradient.abs().flatten(1).amax(dim=1), gradient)
        scaled = gradient / torch.where(largest > 0, largest, 1.0)  # squares of faint entries would vanish
        return scaled / per_image(self.size(scaled), gradient).clamp(min=1)

    def size(self, delta: Tensor) -> Tensor:
        """The Euclidean length [N]."""
        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length
