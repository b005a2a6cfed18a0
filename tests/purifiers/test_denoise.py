"""Denoise: the denoiser's own answer, one call, none at level 0."""

import pytest
import torch
from toys import Gain, photos
from toys_diffusion import Convolved, GaussianPrior

import robustrestore as rr


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


def test_bad_settings() -> None:
    with pytest.raises(TypeError, match="expected a Denoiser"):
        rr.purifiers.Denoise(Gain())  # type: ignore[arg-type]
    for sigma in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="sigma"):
            rr.purifiers.Denoise(Convolved(), sigma)
