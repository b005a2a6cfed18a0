"""Noise: what a smoothed model is averaged over, and how far that carries. The radii hold for the noise as written."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .. import registry
from ..component import Component

Norm = Literal["l1", "l2", "linf"]
NORMS: tuple[Norm, ...] = ("l1", "l2", "linf")
Array = NDArray[np.float64]
_POWER = {"l1": 1.0, "l2": 2.0, "linf": math.inf}


class Noise(Component, kind="noises"):
    """A smoothing distribution, in units of [0, 1] images. Plug-ins write `sample_like`, `applied` and `radii`.

    Let f be any function to classes (or to {0, 1}) and p(x) the probability of one answer for `applied(x, noise)`. A radius R
    promises: if p(x) >= `p_lower`, the same answer has a probability above 1/2 at every image whose distance to x is *below*
    R. It covers the two-class case, so it holds for any number of classes. `count`: how many draws a noise of finitely many,
    equally likely ones has (then nothing need be drawn at random); None for all others. `domain`: which images a promise is
    about, in words; `check` refuses others.
    """

    count: int | None = None
    domain: str = "image"

    @abstractmethod
    def sample_like(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fresh noise for each of `images` [N, C, H, W], independent over images, on their device."""

    @abstractmethod
    def applied(self, images: Tensor, noise: Tensor) -> Tensor:
        """The images under that noise; values may leave [0, 1]."""

    @abstractmethod
    def radii(self, p: Array, dims: int) -> Mapping[Norm, Array]:
        """The radii that are known exactly, for probabilities p > 1/2 and images of `dims` values."""

    def nth(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Draw number k of `count` for each of `images`; only of a noise with a `count`."""
        raise TypeError(f"{self!r}: expected a noise of finitely many draws, such as DSSN")

    def check(self, images: Tensor) -> None:
        """Raise ValueError where the promise would not hold for these images; most noises take any."""

    def slack(self, dims: int) -> float:
        """What is taken off p for draws that are not quite the noise: twice their total variation; 0 if not accounted for.

        Once at the image and once at the other, where p must stay above 1/2 by it: quantiles are convex above 1/2.
        """
        return 0.0

    @final
    def radius(self, p_lower: ArrayLike, norm: Norm, dims: int) -> Array:
        """The certified radius for each probability, 0 where it is no more than 1/2; float64, shaped like `p_lower`.

        `dims`: values an image, C * H * W. Where the radius in `norm` is not known, the largest ball of it that lies in a ball
        of a norm where it is: see `tightness`.
        """
        if norm not in NORMS or dims < 1:
            raise ValueError(f"norm, dims: expected one of {', '.join(NORMS)} and at least one value, got {norm!r}, {dims}")
        p = np.asarray(p_lower, dtype=np.float64)
        if not bool(((p >= 0) & (p <= 1)).all()):
            raise ValueError(f"p_lower: expected probabilities in [0, 1], got values from {np.min(p)} to {np.max(p)}")
        p = np.maximum(p - self.slack(dims), 0.0)
        known = self.radii(np.maximum(p, 0.5), dims)
        if norm in known:
            found = known[norm]
        else:
            found = np.maximum.reduce([_inside(radius, have, norm, dims) for have, radius in known.items()])
        return np.asarray(np.where(p > 0.5, np.maximum(found, 0.0), 0.0), dtype=np.float64)

    @final
    def tightness(self, norm: Norm) -> Literal["exact", "floor"]:
        """`exact`: no larger radius holds for all models of that p. `floor`: sound, and a larger one may hold."""
        return "exact" if norm in self.radii(np.array(0.75), 4) and self.slack(1) == 0 else "floor"

    @staticmethod
    def of(config: Mapping[str, Any]) -> "Noise":
        """The noise that a `config()` describes, as reports store it."""
        cls = registry.find("noises", str(config["name"]))
        settings = {name: Noise.of(v) if isinstance(v, Mapping) else v for name, v in config["settings"].items()}
        made = cls(**settings)
        if not isinstance(made, Noise):
            raise ValueError(f"{config['name']!r}: expected a noise, got {type(made).__name__}")
        return made


def _inside(radius: Array, have: Norm, norm: Norm, dims: int) -> Array:
    """The radius of the largest `norm` ball inside a `have` ball: the same, or less by dims^(1/a - 1/q) for q > a."""
    a, q = 1 / _POWER[have], 1 / _POWER[norm]
    return radius * float(dims ** min(0.0, q - a))


class Additive(Noise):
    """Noise that is added, in float32 at least."""

    @final
    def applied(self, images: Tensor, noise: Tensor) -> Tensor:
        """images + noise."""
        return (images + noise).to(images.dtype)


class Symmetric(Additive):
    """Independent values with one symmetric log-concave density each: the exact L1 radius is the quantile at p.

    The l1 ball's worst direction is one value alone, the worst event a half-space of it: the density's score rises, so the
    flux at probability q is density(quantile(q)), and the integral of 1 / flux from 1/2 to p is quantile(p) (by the method of
    Yang et al., 2020). Plug-ins write `sample_like`, `quantile` and `tail`.
    """

    @abstractmethod
    def quantile(self, p: Array) -> Array:
        """The value below which a share p of one value's noise lies, p >= 1/2."""

    @abstractmethod
    def tail(self, value: Array) -> Array:
        """The probability that one value's noise is above `value` >= 0, with small relative error."""

    def radii(self, p: Array, dims: int) -> Mapping[Norm, Array]:
        """L1 alone."""
        return {"l1": self.quantile(p)}


def check_positive(**settings: float) -> None:
    """Raise unless each setting is a finite number above 0."""
    for name, value in settings.items():
        if isinstance(value, bool | str) or not 0 < value < math.inf:
            raise ValueError(f"{name}: expected a finite number above 0 in units of [0, 1] images, got {value!r}")


def drawn(images: Tensor, generator: torch.Generator | None) -> dict[str, Any]:
    """The keywords of a draw shaped for `images`: float32 at least, on their device."""
    if generator is not None and generator.device.type != images.device.type:
        raise ValueError(f"generator: expected one on {images.device}, got one on {generator.device}")
    wide = images.dtype if images.dtype.itemsize >= 4 else torch.float32
    return {"size": images.shape, "generator": generator, "dtype": wide, "device": images.device}
