"""EDM and k-diffusion networks: exact where the data are Gaussian, told the level that was added, never a logarithm of 0."""

import math

import pytest
import torch
from torch import Tensor, nn
from toys import photos

from robustrestore.integrations import edm, kdiffusion
from robustrestore.purifiers import Diffusion

MEAN, STD = 0.3, 0.4  # of clean pixels on [-1, 1]


def _posterior(noisy: Tensor, sigma: float) -> Tensor:
    """The exact estimate in [0, 1] units for pixels N((MEAN + 1) / 2, (STD / 2)^2)."""
    mean, std = (MEAN + 1) / 2, STD / 2
    return mean + std**2 / (std**2 + sigma**2) * (noisy - mean)


class _Finished(nn.Module):
    """The exact denoiser on [-1, 1] images, by way of log sigma as published networks go; keeps what it was told."""

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        self.told = sigma
        s = sigma.log().exp().view(-1, 1, 1, 1)
        return MEAN + STD**2 / (STD**2 + s**2) * (z - MEAN)


class _Raw(nn.Module):
    """The network that a preconditioner around it turns into the exact denoiser (solved for by hand)."""

    def __init__(self, sigma_data: float, logarithm: bool) -> None:
        super().__init__()
        self.d, self.logarithm = sigma_data, logarithm

    def forward(self, scaled: Tensor, label: Tensor) -> Tensor:
        self.told = label
        s, d = ((4 * label).exp() if self.logarithm else label).view(-1, 1, 1, 1).double(), self.d
        z = scaled.double() * (s**2 + d**2).sqrt()
        clean = MEAN + STD**2 / (STD**2 + s**2) * (z - MEAN)
        return ((clean - d**2 / (s**2 + d**2) * z) * (s**2 + d**2).sqrt() / (s * d)).to(scaled)


class _V(nn.Module):
    """v of the exact denoiser: cos t noise - sin t clean."""

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        self.told = t
        c, s = (t * math.pi / 2).cos().view(-1, 1, 1, 1), (t * math.pi / 2).sin().view(-1, 1, 1, 1)
        clean = MEAN + STD**2 / (STD**2 + (s / c) ** 2) * (z / c - MEAN)
        return c * (z - c * clean) / s - s * clean


MAKES = {
    "edm": lambda: edm.EDM(_Raw(0.5, True)),
    "edm, other sigma_data": lambda: edm.EDM(_Raw(0.7, True), sigma_data=0.7),
    "edm inside": lambda: edm.denoiser_from(_Finished()),
    "k-diffusion": lambda: kdiffusion.denoiser_from(_Finished()),
    "k-diffusion function": lambda: kdiffusion.denoiser_from(lambda z, sigma: _Finished()(z, sigma)),
    "k-diffusion inner": lambda: kdiffusion.preconditioned(_Raw(0.5, False)),
    "v": lambda: kdiffusion.ContinuousV(_V()),
}


@pytest.mark.parametrize("name", MAKES)
def test_exact_networks_give_the_posterior_mean(name: str) -> None:
    denoiser = MAKES[name]()
    for sigma in (0.01, 0.1, 0.5, 3.0):
        noisy = photos() + sigma * torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(denoiser(noisy, sigma), _posterior(noisy, sigma), atol=3e-5, rtol=1e-4)
    levels = torch.tensor([0.05, 0.4])
    both = torch.cat([_posterior(photos()[:1], 0.05), _posterior(photos()[1:], 0.4)])
    torch.testing.assert_close(denoiser(photos(), levels), both, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in MAKES if name != "v"])
def test_level_zero_and_below_the_lowest_gives_the_image_back(name: str) -> None:
    leaf = photos().requires_grad_()
    for sigma in (0.0, 1e-6):
        out = MAKES[name]()(leaf, sigma)
        (gradient,) = torch.autograd.grad(out.sum(), leaf)
        torch.testing.assert_close(out, leaf, atol=5e-5, rtol=0)
        assert gradient.isfinite().all()


def test_the_level_told_is_the_level_added() -> None:
    levels = torch.tensor([0.1, 0.25])
    for denoiser, wanted in (
        (edm.EDM(_Raw(0.5, True)), (2 * levels).log() / 4),
        (kdiffusion.preconditioned(_Raw(0.5, False)), 2 * levels),
        (kdiffusion.ContinuousV(_V()), (2 * levels).atan() * 2 / math.pi),
    ):
        denoiser(photos(), levels)
        torch.testing.assert_close(denoiser.network.told, wanted)
    inner = _Finished()
    edm.denoiser_from(inner)(photos(), levels)
    torch.testing.assert_close(inner.told, 2 * levels)
    edm.denoiser_from(inner)(photos(), torch.tensor([0.0, 0.25]))
    torch.testing.assert_close(inner.told, torch.tensor([edm.LEAST, 0.5]))


def test_gradients_are_those_of_the_exact_estimate() -> None:
    for name, make in MAKES.items():
        leaf = photos().requires_grad_()
        (gradient,) = torch.autograd.grad(make()(leaf, 0.2).sum(), leaf)
        slope = (STD / 2) ** 2 / ((STD / 2) ** 2 + 0.2**2)
        torch.testing.assert_close(gradient, torch.full_like(leaf, slope), atol=1e-4, rtol=0, msg=name)


def test_a_purifier_takes_them() -> None:
    out = Diffusion(kdiffusion.denoiser_from(_Finished()), sigma=0.1, steps=3)(photos())
    assert out.shape == photos().shape


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma_data: expected a finite number above 0, got 0"):
        edm.EDM(_V(), sigma_data=0)
    with pytest.raises(ValueError, match="label: expected log or sigma, got 'time'"):
        edm.EDM(_V(), label="time")
    with pytest.raises(TypeError, match=r"network: expected a module or function of \(noisy, sigma\), got dict"):
        kdiffusion.denoiser_from({"ema": 1})
    for denoiser in (edm.EDM(_Pair()), edm.denoiser_from(_Pair()), kdiffusion.ContinuousV(_Pair())):
        with pytest.raises(TypeError, match="_Pair: expected a tensor of images, got tuple"):
            denoiser(photos(), 0.1)

    for make in (edm.EDM, edm.denoiser_from, kdiffusion.ContinuousV, kdiffusion.preconditioned):
        with pytest.raises(ValueError, match="multiple: expected a whole number >= 1, got 0"):
            make(_Pair(), multiple=0)
        with pytest.raises(ValueError, match=r"_One: expected an estimate of shape \[2, 3, 16, 20\], got \[2, 1, 16, 20\]"):
            make(_One())(photos(), 0.1)


class _One(nn.Module):
    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        return z[:, :1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_levels_are_taken_out_in_half_precision(dtype: torch.dtype) -> None:
    clean = 0.6 * torch.ones(1, 3, 16, 16, dtype=torch.float64)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for make in MAKES.values():
        for sigma in (0.01, 0.03):
            exact = _posterior(clean + sigma * noise, sigma)
            found = make()((clean + sigma * noise).to(dtype), sigma)
            assert found.dtype == dtype
            assert (found.double() - exact).square().mean().sqrt() < torch.finfo(dtype).eps


class _Pair(nn.Module):
    def forward(self, z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return z, z
