"""Noise of known size, kinds and seeds; filters that are those of the purifiers."""

import math

import pytest
import torch
from toys import photos

from robustrestore import purifiers
from robustrestore.degradations import Blur, GaussianNoise, Jpeg, SensorNoise
from robustrestore.degradations.sensor_noise import LEVELS, electrons


@pytest.mark.parametrize("degradation", [GaussianNoise(0.1, seed=2), SensorNoise.at(28, seed=2)], ids=repr)
def test_a_key_is_its_noise(degradation: GaussianNoise) -> None:
    images = photos(3)
    out = degradation(images, [7, 8, 7])
    assert torch.equal(degradation(images[1:2], [8]), out[1:2])
    assert torch.equal(degradation.replace()(images, [7, 8, 7]), out)
    same = images[:1].expand(2, -1, -1, -1)
    one, two = degradation(same, [7, 8])
    assert not torch.equal(one, two)
    assert not torch.equal(degradation.replace(seed=3)(images), degradation(images))
    assert degradation(images[:0]).shape == images[:0].shape
    assert degradation(images.double()).dtype == torch.float64


def test_gaussian_noise_has_its_size() -> None:
    grey = torch.full((1, 3, 200, 200), 0.5, dtype=torch.float64)
    noise = GaussianNoise(0.05)(grey) - grey
    count = noise.numel()
    assert abs(float(noise.mean())) < 4 * 0.05 / math.sqrt(count)
    assert float(noise.std()) == pytest.approx(0.05, rel=4 / math.sqrt(2 * count))
    assert torch.equal(GaussianNoise(0.0)(grey), grey)


@pytest.mark.parametrize("decibel", list(LEVELS))
def test_white_has_the_signal_to_noise_ratio_of_its_level(decibel: int) -> None:
    white = LEVELS[decibel]
    assert 20 * math.log10(white / math.sqrt(white + 4.87**2)) == pytest.approx(decibel, abs=0.05)
    assert SensorNoise.at(decibel).white == white
    half = torch.full((1, 1, 300, 300), 0.5, dtype=torch.float64)
    noise = SensorNoise.at(decibel)(half) - half
    assert abs(float(noise.mean())) < 5 * float(noise.std()) / 300
    assert float(noise.var()) == pytest.approx((0.5 * white + 4.87**2) / white**2, rel=0.03)


def test_photons_are_whole_and_darkness_is_read_noise() -> None:
    own = torch.Generator().manual_seed(0)
    counted = electrons(torch.full((200, 200), 3.0), 1.0, own)
    torch.manual_seed(0)
    own = torch.Generator().manual_seed(0)
    drawn = torch.poisson(torch.full((200, 200), 3.0, dtype=torch.float64), generator=own)
    read = (counted - drawn) / 4.87
    assert float(read.std()) == pytest.approx(1, abs=0.02)
    assert float(drawn.var()) == pytest.approx(3, abs=0.1)


def test_the_gradient_of_noise_is_that_of_its_mean() -> None:
    leaf = photos().requires_grad_()
    (gradient,) = torch.autograd.grad(SensorNoise.at(32)(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, torch.ones_like(leaf))


def test_a_full_well_cuts_bright_light() -> None:
    out = SensorNoise(white=4 * 15_506)(torch.tensor([0.1, 0.9]).view(1, 1, 1, 2).expand(1, 3, 8, 2))
    assert bool((out[..., 1] == 0.25).all())
    assert bool((out[..., 0] < 0.12).all())


def test_filters_are_those_of_the_purifiers() -> None:
    images = photos(2, 19, 23)
    assert torch.equal(Jpeg(20)(images, [5, 6]), purifiers.Jpeg(20)(images))
    assert torch.equal(Blur(1.5)(images, [5, 6]), purifiers.Blur(1.5)(images))
    assert torch.equal(Jpeg(20).replace(quality=70)(images), purifiers.Jpeg(70)(images))
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Jpeg(20)(leaf).square().sum(), leaf)
    assert bool((gradient != 0).any())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Jpeg(0), r"quality: expected a whole number from 1 to 100, got 0"),
        (lambda: Blur(0), "sigma: expected a finite width > 0 in pixels, got 0"),
        (lambda: GaussianNoise(-0.1), "sigma: expected a value >= 0, got -0.1"),
        (lambda: GaussianNoise(float("nan")), "sigma: expected a value >= 0, got nan"),
        (lambda: SensorNoise(0), "white: expected electrons > 0, got 0"),
        (lambda: SensorNoise.at(30), r"decibel: expected one of \[24, 28, 32, 36, 40\], got 30"),
    ],
)
def test_wrong_values(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
