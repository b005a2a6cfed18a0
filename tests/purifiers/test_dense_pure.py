"""DensePure: one step is the denoiser, many follow the sampler, and votes behind it are certified."""

import pytest
import torch
from torch import Tensor, nn
from toys import photos

import robustrestore as rr
from robustrestore import certify, diffusion


class Wiener(nn.Module):
    """The best denoiser where pixels are independent, of mean 0.5 and standard deviation 0.1."""

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return 0.5 + 0.01 / (0.01 + sigma.square().view(-1, 1, 1, 1)) * (noisy - 0.5)


DENOISER = diffusion.NoiseConditioned(Wiener())


def test_one_step_is_the_denoiser() -> None:
    images = photos()
    one = rr.purifiers.DensePure(DENOISER, sigma=0.2, steps=1)(images)
    assert torch.equal(one, rr.purifiers.Denoise(DENOISER, sigma=0.2)(images))


def test_many_steps_draw_from_the_posterior() -> None:
    """Pixels 0.5 + 0.1 z under noise 0.2: the posterior's deviation is 0.1 * 0.2 / sqrt(0.05), its mean the denoiser's."""
    noisy = torch.full((1, 1, 64, 64), 0.7)
    out = rr.purifiers.DensePure(DENOISER, sigma=0.2, steps=200)(noisy)
    mean = float(DENOISER(noisy, 0.2)[0, 0, 0, 0])
    assert float(out.mean()) == pytest.approx(mean, abs=0.006)
    assert float(out.std()) == pytest.approx(0.1 * 0.2 / 0.05**0.5, rel=0.06)


def test_runs_of_a_vote_differ_and_are_certified_as_one_model() -> None:
    class Bright(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = 20 * (images.mean(dim=(1, 2, 3)) - 0.5)
            return torch.stack([score, -score], dim=1)

    stage = rr.purifiers.DensePure(DENOISER, sigma=0.2, steps=4)
    defended = rr.DefendedPipeline(Bright(), [stage], vote=rr.MajorityVote(5))
    image = torch.full((1, 1, 8, 8), 0.6)
    assert not torch.equal(stage(image), stage.replace(seed=1)(image))
    runs = [certify.SmoothedClassifier(defended, certify.Gaussian(0.2), c).certify(image, 20, 300)[0] for c in (16, 64)]
    assert runs[0].counts == runs[1].counts
    assert runs[0].prediction == 0
    assert 0.3 < runs[0].radius["l2"] <= 0.8  # the mean of 64 pixels is 0.1 * 8 from the threshold


def test_wrong_settings_are_named() -> None:
    with pytest.raises(TypeError, match="Denoiser"):
        rr.purifiers.DensePure(nn.Identity())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0"):
        rr.purifiers.DensePure(DENOISER, sigma=0)
