"""Denoise: the denoiser's own answer, one call, none at level 0."""

import pytest
import torch
from toys import Gain, photos
from toys_diffusion import Convolved, GaussianPrior, kept

import robustrestore as rr
from robustrestore.images import tiled


def test_it_is_the_posterior_mean_in_closed_form() -> None:
    prior = GaussianPrior(mean=0.4, std=0.1)
    found = rr.purifiers.Denoise(prior, sigma=0.2)(photos())
    torch.testing.assert_close(found, 0.4 + 0.2 * (photos() - 0.4))
    assert prior.calls == 1


def test_it_is_diffusion_in_one_step_less_the_noise() -> None:
    denoiser = Convolved()
    purifier = rr.purifiers.Denoise(denoiser, sigma=0.1)
    assert torch.equal(purifier(photos()), denoiser(photos(), 0.1).clamp(0, 1))
    assert torch.equal(purifier.replace(sigma=0)(photos()), photos())
    assert denoiser.calls == 2


def test_tiles_are_the_whole_where_pixels_are_independent_and_the_network_sees_no_more() -> None:
    prior, images = GaussianPrior(), photos(2, 50, 65)
    whole = rr.purifiers.Denoise(prior, sigma=0.2)
    shown: list[torch.Size] = []
    prior.register_forward_hook(lambda module, inputs, output: shown.append(output.shape))
    expected, tiles = whole(images), whole.replace(tile=32, overlap=8)
    torch.testing.assert_close(tiles(images), expected, atol=1e-6, rtol=0)
    assert [tuple(one) for one in shown[1:]] == [(2, 3, 32, 32)] * 6
    shown.clear()
    tiles.replace(tiles_at_once=3)(images)
    assert [one[0] for one in shown] == [6, 6]
    shown.clear()
    whole.replace(tile=65)(images)
    assert len(shown) == 1  # fits into one tile


def test_tiles_are_those_of_diffusion() -> None:
    """Diffusion's one step, of its own noisy image: the same cuts and the same blend over neighbourhoods."""
    denoiser, images = Convolved(), photos(1, 40, 52)
    diffusion = rr.purifiers.Diffusion(denoiser, 0.1, 1, tile=24, overlap=8, tiles_at_once=2)
    noisy = images + 0.1 * torch.randn(1, 3, 40, 52, generator=torch.Generator().manual_seed(0))
    denoise = rr.purifiers.Denoise(denoiser, 0.1, 24, 8, 2)
    assert torch.equal(denoise.run(noisy), diffusion.run(images))
    assert not torch.equal(denoise.run(noisy), denoise.replace(tile=None).run(noisy))


def test_gradients_through_tiles_are_exact_reach_the_weights_and_keep_little() -> None:
    denoiser, images = Convolved().double(), photos(1, 40, 52).double().requires_grad_()
    whole = rr.purifiers.Denoise(denoiser, 0.1)
    tiles, leaves = whole.replace(tile=24, overlap=8), [images, *denoiser.parameters()]
    found = torch.autograd.grad(tiles(images).square().sum(), leaves)

    def plain() -> torch.Tensor:
        return tiled(lambda pieces: denoiser(pieces, 0.1), images, 24, 8)

    wanted = torch.autograd.grad(plain().clamp(0, 1).square().sum(), leaves)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)
    assert kept(lambda: tiles(images)) < 3.2 * images.numel()
    assert kept(plain) > 5 * images.numel()


def test_bad_settings() -> None:
    with pytest.raises(TypeError, match="expected a Denoiser"):
        rr.purifiers.Denoise(Gain())  # type: ignore[arg-type]
    for sigma in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="sigma"):
            rr.purifiers.Denoise(Convolved(), sigma)
