"""Answers: a share that can be counted, and the level at which the attack is undone."""

import pytest
import torch
from torch import Tensor, nn

import robustrestore as rr
from robustrestore.answers import Answers
from robustrestore.calibrate import select_noise_level


class Brighter(rr.Purifier):
    """Undoes a darkening by `sigma` exactly."""

    def __init__(self, sigma: float = 0.0) -> None:
        super().__init__()
        self.sigma = float(sigma)

    def run(self, images: Tensor) -> Tensor:
        return images + self.sigma


class Bins(nn.Module):
    """Ten classes: which tenth of [0, 1] the mean of an image, or each pixel, lies in."""

    def __init__(self, dense: bool) -> None:
        super().__init__()
        self.dense = dense

    def forward(self, images: Tensor) -> Tensor:
        grey = images.mean(1) if self.dense else images.mean((1, 2, 3))
        centres = torch.linspace(0.05, 0.95, 10).view(1, 10, *[1] * (grey.dim() - 1))
        return -(grey[:, None] - centres).abs()


@pytest.fixture
def clean() -> Tensor:
    """Uniform images, so that a shift by s moves a share 10 s of them into another tenth."""
    return (0.3 + 0.4 * torch.arange(4000).view(-1, 1, 1, 1) / 4000).expand(-1, 3, 2, 2).clone()


@pytest.mark.parametrize("dense", [False, True])
def test_the_level_that_undoes_the_attack_is_found(clean: Tensor, dense: bool) -> None:
    attacked = clean - 0.06
    found = select_noise_level(Brighter(), Answers(Bins(dense)), attacked.split(500), clean.split(300), [0, 0.03, 0.06, 0.09])
    assert found.chosen == 0.06
    assert [p.distance for p in found.points] == pytest.approx([0.6, 0.3, 0.0, 0.3], abs=0.01)
    assert found.points[1].calls == 4000
    assert "answers changed" in found.markdown()
    assert not any("features" in warning for warning in found.warnings)


def test_clean_answers_serve_many_calls(clean: Tensor) -> None:
    answers = Answers(Bins(False))
    known, attacked = answers.statistics(clean), clean - 0.06
    one = select_noise_level(Brighter(), answers, attacked, known, [0.03, 0.06])
    assert one.points == select_noise_level(Brighter(), answers, attacked, clean, [0.03, 0.06]).points


def test_others_than_partners_are_refused(clean: Tensor) -> None:
    answers = Answers(Bins(False))
    with pytest.raises(ValueError, match="same images in the same order"):
        select_noise_level(Brighter(), answers, clean, clean[:-1], [0.1])
    with pytest.raises(ValueError, match="same network"):
        select_noise_level(Brighter(), Answers(nn.Sequential(nn.Flatten(), nn.Linear(12, 2))), clean,
                           answers.statistics(clean), [0.1])  # fmt: skip


def test_what_is_no_classifier_is_refused(clean: Tensor) -> None:
    with pytest.raises(TypeError, match="class scores"):
        Answers(nn.Flatten(0)).statistics(clean[:2])


def test_scores_that_are_no_numbers_are_refused(clean: Tensor) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) * float("nan")

    with pytest.raises(ValueError, match="NaN"):
        Answers(Broken()).statistics(clean[:2])
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        Answers(len)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1 image"):
        Answers(Broken()).statistics([])
