"""Rain: the same for a key, denser when asked, slanted as asked, blended by the formula, nothing where nothing is."""

import math
from itertools import pairwise

import pytest
import torch
from toys import photos

from robustrestore.degradations import Rain
from robustrestore.purifiers import Blur


def _orientation(layer: torch.Tensor) -> float:
    """The dominant direction of lines, degrees from vertical, positive as in a backslash; by the structure tensor."""
    dy, dx = torch.gradient(layer[0, 0].double())
    across = 0.5 * math.atan2(2 * float((dx * dy).sum()), float((dx * dx).sum() - (dy * dy).sum()))
    return -math.degrees(across)  # gradients point across the lines


def test_a_key_is_its_rain_in_every_batch() -> None:
    rain, images = Rain(seed=2), photos(3, 40, 50)
    out = rain(images, [7, 8, 7])
    assert torch.equal(rain(images, [7, 8, 7]), out)
    assert torch.equal(rain(images[1:2], [8]), out[1:2])
    assert torch.equal(rain(images[[2, 0]], [7, 7]), out[[2, 0]])
    assert torch.equal(Rain(seed=2)(images, [7, 8, 7]), out)
    torch.testing.assert_close(rain.streaks(40, 50, 7), rain.streaks(40, 50, 7), atol=0, rtol=0)
    for other in (rain.streaks(40, 50, 8), Rain(seed=3).streaks(40, 50, 7)):
        assert (other - rain.streaks(40, 50, 7)).abs().max() > 0.1


def test_without_keys_an_image_has_the_key_of_its_place() -> None:
    rain, images = Rain(), photos(3, 24, 24)
    assert torch.equal(rain(images), rain(images, [0, 1, 2]))
    state = torch.random.get_rng_state()
    rain(images)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_more_density_is_more_rain() -> None:
    wet = [float((Rain(density=d).streaks(128, 128, 4) > 0.05).float().mean()) for d in (0, 1, 4, 16)]
    assert wet[0] == 0
    assert wet[1] > 0.005
    assert wet[1] < wet[2] / 2
    assert wet[2] < wet[3] / 2


def test_more_brightness_and_length_is_more_rain() -> None:
    dark, bright = (Rain(brightness=b).streaks(64, 64, 1) for b in (0.2, 0.4))
    torch.testing.assert_close(bright, 2 * dark)  # below the clamp streaks scale
    short, long = (float(Rain(length=v).streaks(128, 128, 1).mean()) for v in (6, 24))
    assert long > 2 * short


@pytest.mark.parametrize("angle", [-50.0, -20.0, 0.0, 20.0, 45.0])
def test_streaks_lean_by_the_angle(angle: float) -> None:
    rain = Rain(angle=angle, length=20, density=3)
    found = [_orientation(Blur(2.0)(rain.streaks(96, 96, key))) for key in range(4)]
    assert sum(found) / 4 == pytest.approx(angle, abs=4)
    assert 3 < max(found) - min(found) < 14  # +- 5 by the key, and the estimate's error


@pytest.mark.parametrize("haze", [0.0, 0.3])
def test_blends_are_the_formulas(haze: float) -> None:
    images = photos(2, 32, 40)
    rain = torch.cat([Rain(haze=haze).streaks(32, 40, key) for key in (3, 9)])
    far = (1 - torch.arange(32) / 31).view(1, 1, -1, 1)
    veiled = images + haze * far * (0.8 - images)
    added, screened = (Rain(haze=haze, blend=blend)(images, [3, 9]) for blend in ("add", "screen"))
    torch.testing.assert_close(added, (veiled + rain).clamp(0, 1))
    torch.testing.assert_close(screened, veiled + rain - veiled * rain)
    assert rain.max() > 0.2
    assert ((veiled + rain) > 1).any()  # so that the clamp is looked at, too
    assert (screened < 1).all()


def test_haze_is_thick_at_the_top_and_gone_at_the_bottom() -> None:
    out = Rain(density=0, haze=0.5)(torch.full((1, 3, 21, 10), 0.2))
    torch.testing.assert_close(out[0, 0, :, 0], torch.linspace(0.5, 0.2, 21))


def test_rain_by_distance_is_the_formula() -> None:
    images, haze = photos(2, 32, 40), 0.3
    streaks = torch.cat([Rain(haze=haze).streaks(32, 40, key) for key in (3, 9)])
    far = (1 - torch.arange(32) / 31).view(1, 1, -1, 1)
    rain, veil = streaks * torch.exp(-far.clamp(min=0.2)), 1 - (1 - haze) ** far
    out = Rain(haze=haze, blend="depth")(images, [3, 9])
    torch.testing.assert_close(out, images * (1 - rain - veil) + rain + 0.8 * veil)
    torch.testing.assert_close(veil[0, 0, [0, -1], 0], torch.tensor([haze, 0.0]))  # grey at the horizon, clear in front
    assert rain.max() > 0.1


def test_thick_haze_and_bright_rain_leave_no_negative_light() -> None:
    out = Rain(haze=1, brightness=2, density=40, blend="depth")(torch.ones(1, 3, 24, 24))
    assert float(out.min()) > 0.3


@pytest.mark.parametrize("blend", ["add", "screen", "depth"])
def test_each_severity_harms_more(blend: str) -> None:
    images = photos(2, 64, 80)
    harm = [float((Rain.severity(level, blend)(images) - images).square().mean()) for level in range(1, 6)]
    assert harm[0] > 1e-4
    assert all(more > 1.3 * less for less, more in pairwise(harm))
    assert Rain.severity(3, seed=4).settings() == Rain(seed=4).settings()


@pytest.mark.parametrize("level", [0, 6, 2.5])
def test_other_severities_are_refused(level: int) -> None:
    with pytest.raises(ValueError, match=rf"level: expected 1\.\.5, got {level}"):
        Rain.severity(level)


@pytest.mark.parametrize("blend", ["add", "screen", "depth"])
@pytest.mark.parametrize("nothing", [{"brightness": 0.0}, {"density": 0.0}], ids=str)
def test_no_rain_and_no_haze_is_the_identity(blend: str, nothing: dict[str, float]) -> None:
    images = photos(2, 17, 23)
    torch.testing.assert_close(Rain(haze=0, **nothing, blend=blend)(images), images, atol=1e-6, rtol=0)


def test_sizes_channels_dtype_and_gradient() -> None:
    for shape in ((1, 1, 5, 7), (2, 4, 33, 16), (0, 3, 8, 8)):
        assert Rain()(torch.rand(shape)).shape == shape
    grey = Rain(haze=0)(torch.full((1, 3, 32, 32), 0.25))
    assert torch.equal(grey[:, 0], grey[:, 2])  # rain has no colour
    assert Rain()(photos().double()).dtype == torch.float64
    leaf = photos(1, 32, 32).requires_grad_()
    (gradient,) = torch.autograd.grad(Rain(blend="screen", haze=0)(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, (1 - Rain().streaks(32, 32, 0)).expand_as(gradient))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": -1}, "density: expected a value >= 0, got -1"),
        ({"density": float("nan")}, "density: expected a value >= 0, got nan"),
        ({"brightness": -0.1}, "brightness: expected a value >= 0, got -0.1"),
        ({"haze": -0.1}, "haze: expected a value >= 0, got -0.1"),
        ({"haze": 1.5}, r"haze: expected a share in \[0, 1\], got 1.5"),
        ({"length": float("nan")}, "length: expected at least 1 pixel, got nan"),
        ({"length": 0.5}, "length: expected at least 1 pixel, got 0.5"),
        ({"blend": "multiply"}, r"blend: expected one of \('add', 'screen', 'depth'\), got 'multiply'"),
    ],
    ids=str,
)
def test_wrong_values(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rain(**settings)


def test_wrong_inputs() -> None:
    with pytest.raises(ValueError, match="keys: expected one for each of 2 images, got 1"):
        Rain()(photos(), [4])
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\]"):
        Rain()(photos() * 255)
