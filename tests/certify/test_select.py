"""select_noise: the largest average certified radius by hand, frozen, on images of its own; one noise for all inputs."""

from pathlib import Path

import pytest
import torch
from toys_certify import Line, images_of

from robustrestore import certify

IMAGES = images_of(24)


def smoothed(*noises: certify.Noise) -> list[certify.SmoothedClassifier]:
    return [certify.SmoothedClassifier(Line(), noise) for noise in noises]


def batches(images: torch.Tensor = IMAGES) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(images[:10], Line()(images[:10]).argmax(1)), (images[10:], Line()(images[10:]).argmax(1))]


def expected(sigma: float, count: int, alpha: float) -> float:
    """The mean radius if every count were its expectation: the line's p is Phi(distance / sigma)."""
    from scipy.stats import norm

    p = norm.cdf(Line().distance(IMAGES).double().numpy() / sigma)
    low = certify.bounds.lower(p * count, count, alpha)
    return float(certify.Gaussian(sigma).radius(low, "l2", 16).mean())


def test_18_scale_and_family_are_chosen_by_acr_and_then_frozen(tmp_path: Path) -> None:
    noises = [certify.Gaussian(0.02), certify.Gaussian(0.3), certify.Gaussian(2.0), certify.Laplace(0.2)]
    choice = certify.select_noise(smoothed(*noises), batches(), draws=(50, 1000), folder=tmp_path)
    assert choice.noise.config() == noises[1].config()
    wanted = [expected(sigma, 1000, 0.001) for sigma in (0.02, 0.3, 2.0)]
    assert choice.values()[:2] == pytest.approx(wanted[:2], rel=0.1, abs=0.01)
    assert choice.values()[2] == pytest.approx(wanted[2], abs=0.04)  # shares near one half: 24 images scatter by 0.016
    other = choice.measure(batches(images_of(24, seed=5)), draws=(50, 500))
    assert other.about["noise"] == noises[1].config()
    assert other.about["noise selected"] == {"norm": "l2", "candidates": 4, "images": 24}
    assert "| **Gaussian(sigma=0.3)** |" in choice.markdown()
    assert any("floor" in warning for warning in choice.warnings)
    again = certify.select_noise(smoothed(*noises), batches(), draws=(50, 1000), folder=tmp_path)
    assert again.json() == choice.json()
    choice.save(tmp_path / "out")
    assert (tmp_path / "out" / "selected.json").read_text() == choice.json()


def test_18_each_norm_has_a_choice_of_its_own() -> None:
    noises = [certify.Gaussian(0.3), certify.Uniform(0.8)]
    l1, linf = (certify.select_noise(smoothed(*noises), batches(), norm, (50, 500)) for norm in ("l1", "linf"))  # type: ignore[arg-type]
    assert [choice.noise.name for choice in (l1, linf)] == ["uniform", "gaussian"]


def test_images_of_the_selection_are_not_certified_afterwards() -> None:
    choice = certify.select_noise(smoothed(certify.Gaussian(0.3)), batches(), draws=(10, 20))
    mixed = torch.cat([images_of(3, seed=5), IMAGES[3:4]])
    with pytest.raises(ValueError, match="expected none that the noise was selected on, got 1"):
        choice.measure([(mixed, torch.zeros(4, dtype=torch.long))], draws=(10, 20))


def test_a_noise_for_each_input_is_refused() -> None:
    def nearest(image: torch.Tensor) -> certify.Noise:
        return certify.Gaussian(float(image.mean()))

    with pytest.raises(TypeError, match="one Noise for all images, got function: a noise chosen for each input"):
        certify.select_noise([certify.SmoothedClassifier(Line(), nearest)], batches())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="voids its certificate"):
        certify.select_noise(smoothed(certify.Gaussian(0.3)), [(IMAGES[:1], torch.zeros(1, dtype=torch.long))])
    with pytest.raises(TypeError, match="SmoothedClassifier"):
        certify.select_noise([certify.Gaussian(0.3)], batches())  # type: ignore[list-item]
    with pytest.raises(ValueError, match="at least one"):
        certify.select_noise([], batches())


def test_doubtful_choices_say_so() -> None:
    target = 1 - Line()(IMAGES).argmax(1)
    nothing = certify.select_noise(smoothed(certify.Gaussian(0.05)), [(IMAGES, target)], draws=(10, 30))
    assert "certifies a single image" in nothing.warnings[0]
    close = certify.select_noise(smoothed(certify.Gaussian(0.3), certify.Gaussian(0.31)), batches(), draws=(10, 100))
    assert any("more images would tell" in warning for warning in close.warnings)
