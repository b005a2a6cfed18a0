"""What cannot be measured is named, with the level and the image; no level is chosen in silence."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from toys import photos
from toys_diffusion import Convolved

import robustrestore as rr
from robustrestore.calibrate import select_noise_level
from robustrestore.purifiers import Blur, Diffusion

NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).requires_grad_(False)
FEATURES = rr.Features(NET, "1")
CLEAN = FEATURES.statistics(photos(8))
PURIFIER = Diffusion(Convolved(), steps=1)
chosen = partial(select_noise_level, PURIFIER, FEATURES, photos(6), CLEAN, [0, 0.1, 0.2])


class Breaks(rr.Purifier):
    """NaN in image 4 of all, at level 0.2."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma, self.shown = sigma, 0

    def run(self, images: Tensor) -> Tensor:
        first, self.shown = self.shown, self.shown + len(images)
        out = images.clone()
        if self.sigma == 0.2 and first <= 4 < self.shown:
            out[4 - first, 0, 1, 1] = float("nan")
        return out


class Sensitive(nn.Module):
    """Features that are infinite where an image is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        rows = images.flatten(2).mean(2)
        return self.body(torch.where(images.amax((1, 2, 3))[:, None] > 0.99, torch.inf, rows))


@pytest.mark.parametrize("features", [FEATURES, rr.Answers(NET)], ids=["features", "answers"])
def test_a_purifier_that_breaks_is_named_with_level_and_image(features: rr.Features) -> None:
    with pytest.raises(ValueError, match=r"attacked, level 0\.2: expected finite images from the stage.* for image 4: look at"):
        select_noise_level(Breaks, features, photos(6).split(3), photos(6), [0.1, 0.2])


def test_features_that_are_not_finite_are_named() -> None:
    images, features = photos(6), rr.Features(Sensitive(), "body")
    clean = features.statistics(images)
    images[3, 0, 0, 0] = 1.0
    with pytest.raises(ValueError, match=r"attacked, level 0: body: expected finite features, got NaN or infinity for image 3"):
        select_noise_level(PURIFIER, features, images.split(2), clean, [0, 0.1])
    with pytest.raises(ValueError, match=r"^clean: body: expected finite features, got NaN or infinity for image 3"):
        select_noise_level(PURIFIER, features, photos(6), images, [0, 0.1])


def test_images_that_are_not_finite_are_named() -> None:
    images = photos(6)
    images[4, 1, 2, 3] = float("inf")
    with pytest.raises(ValueError, match=r"attacked, level 0: batches: expected finite values.*\(image 4, batch 2\)"):
        select_noise_level(PURIFIER, FEATURES, images.split(2), CLEAN, [0, 0.1])
    with pytest.raises(TypeError, match=r"batches: expected a torch.Tensor, got str.*\(batch 1\)"):
        select_noise_level(PURIFIER, FEATURES, [photos(2), "photos"], CLEAN, [0, 0.1])


@pytest.mark.parametrize("features", [FEATURES, rr.Answers(NET)], ids=["features", "answers"])
def test_empty_batches_are_named(features: rr.Features) -> None:
    with pytest.raises(ValueError, match=r"attacked, level 0: batches: expected at least one image a batch, got none in"):
        select_noise_level(PURIFIER, features, [photos(6), photos(0)], photos(6), [0, 0.1])
    with pytest.raises(ValueError, match=r"attacked, level 0: batches: expected at least \d images?, got"):
        select_noise_level(PURIFIER, features, [], photos(6), [0, 0.1])
    with pytest.raises(ValueError, match=r"^clean: batches: expected at least \d images?, got"):
        select_noise_level(PURIFIER, features, photos(6), [], [0, 0.1])


def test_a_distance_that_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(CLEAN), "distance", lambda self, other: float("nan"))
    with pytest.raises(ValueError, match=r"level 0: expected a finite distance, got nan"):
        chosen()


@pytest.mark.parametrize(
    ("levels", "kind", "message"),
    [
        (["0.1"], TypeError, "got '0.1' among them"),
        ("0.1", TypeError, "expected a list of sigmas, got '0.1'"),
        (0.1, TypeError, "expected a list of sigmas, got 0.1"),
        ([0.1, True], TypeError, "got True among them"),
        ([0.1, None], TypeError, "got None among them"),
        ([0.1, -0.2], ValueError, "expected finite sigmas >= 0"),
        ([0.1, 0.2, 0.1], ValueError, r"expected each level once, got \[0.1\] more than once"),
        ([0, 0.0], ValueError, r"expected each level once, got \[0.0\] more than once"),
    ],
    ids=str,
)
def test_levels_are_numbers_each_once(levels: object, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"levels: .*{message}"):
        select_noise_level(PURIFIER, FEATURES, photos(6), CLEAN, levels)


def test_what_is_no_purifier_with_a_level_of_noise() -> None:
    with pytest.raises(TypeError, match=r"whose sigma is a level of noise, got Blur\(sigma=1\) without a denoiser in it"):
        select_noise_level(Blur(), FEATURES, photos(6), CLEAN)
    found = select_noise_level(Blur(), FEATURES, photos(6), CLEAN, [0, 0.5, 2.0])  # in pixels, as told
    assert found.points[2].distance == FEATURES.statistics(Blur(2.0)(photos(6))).distance(CLEAN)
    for pipeline in (rr.DefendedPipeline(NET), rr.DefendedPipeline(NET, [PURIFIER])):
        with pytest.raises(TypeError, match="got DefendedPipeline: hand over one of its stages"):
            select_noise_level(pipeline, FEATURES, photos(6), CLEAN)
        with pytest.raises(TypeError, match=r"a function from level to Stage, got DefendedPipeline for 0\.1"):
            select_noise_level(lambda level: pipeline, FEATURES, photos(6), CLEAN, [0, 0.1])  # noqa: B023
    with pytest.raises(TypeError, match=r"a function from level to Stage, got NoneType for 0\.1"):
        select_noise_level(lambda level: None, FEATURES, photos(6), CLEAN, [0, 0.1])


def test_other_arguments() -> None:
    with pytest.raises(ValueError, match="search: expected one that measures a level or more"):
        select_noise_level(PURIFIER, FEATURES, photos(6), CLEAN, [0.1, 0.2], lambda count, distance: None)
    with pytest.raises(ValueError, match="seed: expected a whole number >= 0, got -1"):
        chosen(seed=-1)
    with pytest.raises(TypeError, match=r"clean: expected what features.statistics gives for Answers, got Gaussian"):
        select_noise_level(PURIFIER, rr.Answers(NET), photos(6), CLEAN)
    with pytest.raises(TypeError, match=r"features: expected Features\(model, module\) or Answers\(model\), got Sequential"):
        select_noise_level(PURIFIER, NET, photos(6), CLEAN)


def test_a_level_that_a_purifier_refuses_is_named() -> None:
    purifier = rr.purifiers.ScoreOpt(Convolved(), iterations=1)
    with pytest.raises(ValueError, match=r"^attacked, level 0\.02: sigma: expected levels with 0 <= spread <= sigma"):
        select_noise_level(purifier, FEATURES, photos(6), CLEAN, [0.02])
