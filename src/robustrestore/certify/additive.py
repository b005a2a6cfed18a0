"""Additive noises: Gaussian, Laplace, uniform, generalised normal, hyperbolic secant."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .noise import Additive, Array, Norm, Symmetric, check_positive, drawn


class Gaussian(Symmetric, name="gaussian"):
    """Normal noise of standard deviation `sigma` (Cohen, Rosenfeld and Kolter, 2019).

    The radius sigma z, z the normal quantile, is exact in L1 and L2; in Linf it is sigma z / sqrt(dims), exact too.
    """

    def __init__(self, sigma: float) -> None:
        check_positive(sigma=sigma)
        self.sigma = float(sigma)

    def sample_like(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """sigma times standard normal noise."""
        return torch.randn(**drawn(images, generator)).mul_(self.sigma)

    def quantile(self, p: Array) -> Array:
        """sigma z."""
        from scipy.stats import norm

        return np.asarray(self.sigma * norm.ppf(p), dtype=np.float64)

    def tail(self, value: Array) -> Array:
        """Of the normal distribution."""
        from scipy.stats import norm

        return np.asarray(norm.sf(value / self.sigma), dtype=np.float64)

    def radii(self, p: Array, dims: int) -> Mapping[Norm, Array]:
        """All three norms."""
        radius = self.quantile(p)
        return {"l1": radius, "l2": radius, "linf": radius / math.sqrt(dims)}


class Laplace(Symmetric, name="laplace"):
    """Density exp(-|x| / scale) a value (Teng et al., 2019; Yang et al., 2020); standard deviation sqrt(2) scale.

    Exact in L1, -scale ln(2 (1 - p)). In L2 and Linf a floor: the radius along one axis is larger than the one that holds in
    every direction.
    """

    def __init__(self, scale: float) -> None:
        check_positive(scale=scale)
        self.scale = float(scale)

    def sample_like(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The difference of two exponential draws."""
        how = drawn(images, generator)
        empty = torch.empty(how["size"], dtype=how["dtype"], device=how["device"])
        one, other = (torch.empty_like(empty).exponential_(generator=generator) for _ in range(2))
        return (one - other) * self.scale

    def quantile(self, p: Array) -> Array:
        """-scale ln(2 (1 - p))."""
        with np.errstate(divide="ignore"):
            return np.asarray(-self.scale * np.log(2 * (1 - p)), dtype=np.float64)

    def tail(self, value: Array) -> Array:
        """exp(-value / scale) / 2."""
        return np.asarray(np.exp(-value / self.scale) / 2, dtype=np.float64)


class Uniform(Additive, name="uniform"):
    """Uniform on [-half, half] a value (Yang et al., 2020).

    Exact in L1, 2 half (p - 1/2), and in Linf, 2 half (1 - (1.5 - p)^(1 / dims)); a floor in L2.
    """

    def __init__(self, half: float) -> None:
        check_positive(half=half)
        self.half = float(half)

    def sample_like(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Drawn evenly."""
        return (2 * torch.rand(**drawn(images, generator)) - 1) * self.half

    def radii(self, p: Array, dims: int) -> Mapping[Norm, Array]:
        """L1 and Linf: 1/2 is what two shifted cubes may differ by, less what p has above it."""
        box = -np.expm1(np.log(1.5 - p) / dims)
        return {"l1": 2 * self.half * (p - 0.5), "linf": 2 * self.half * box}


class GeneralisedNormal(Symmetric, name="generalised_normal"):
    """Density exp(-|x / scale|^shape) a value (one of the families of UniCR: Hong et al., 2022).

    Exact in L1 for `shape` >= 1, where the density is log-concave; below 1 no sound radius is known here and none is given. A
    floor in L2 and Linf. `shape` 2 with scale sqrt(2) sigma is Gaussian(sigma), which has exact radii there too.
    """

    def __init__(self, scale: float, shape: float) -> None:
        check_positive(scale=scale, shape=shape)
        if shape < 1:
            raise ValueError(
                f"shape: expected at least 1, got {shape}: the density is not log-concave below, and no sound radius is known"
            )
        self.scale, self.shape = float(scale), float(shape)

    def sample_like(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """|x / scale|^shape follows a gamma distribution of 1 / shape."""
        how = drawn(images, generator)
        wide = torch.full(how["size"], 1 / self.shape, dtype=torch.float64, device=how["device"])
        size = torch._standard_gamma(wide, generator=generator).pow(1 / self.shape).to(how["dtype"])
        sign = torch.randint(0, 2, how["size"], generator=generator, device=how["device"], dtype=torch.int8)
        return size * self.scale * (2 * sign - 1)

    def quantile(self, p: Array) -> Array:
        """By the inverse of the regularised incomplete gamma function."""
        from scipy.stats import gennorm

        return np.asarray(gennorm.ppf(p, self.shape, scale=self.scale), dtype=np.float64)

    def tail(self, value: Array) -> Array:
        """By the regularised incomplete gamma function."""
        from scipy.special import gammaincc

        return np.asarray(gammaincc(1 / self.shape, (value / self.scale) ** self.shape) / 2, dtype=np.float64)


class HyperbolicSecant(Symmetric, name="hyperbolic_secant"):
    """Density 1 / cosh(x / scale) a value (one of the families of UniCR: Hong et al., 2022); log-concave.

    Exact in L1, scale ln tan(pi p / 2); a floor in L2 and Linf. Standard deviation pi scale / 2.
    """

    def __init__(self, scale: float) -> None:
        check_positive(scale=scale)
        self.scale = float(scale)

    def sample_like(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """By the quantile function, in float64."""
        how = drawn(images, generator)
        share = torch.rand(**{**how, "dtype": torch.float64}).clamp(min=2.0**-54)
        return (self.scale * (share * (math.pi / 2)).tan().log()).to(how["dtype"])

    def quantile(self, p: Array) -> Array:
        """scale ln tan(pi p / 2)."""
        with np.errstate(divide="ignore"):
            return np.asarray(-self.scale * np.log(np.tan((1 - p) * (math.pi / 2))), dtype=np.float64)

    def tail(self, value: Array) -> Array:
        """2 / pi atan(exp(-value / scale))."""
        return np.asarray(2 / math.pi * np.arctan(np.exp(-value / self.scale)), dtype=np.float64)
