"""DensePure: one step is the denoiser, many follow the sampler, and votes behind it are certified."""

import pytest
import torch
from torch import Tensor, nn
from toys import photos
from toys_diffusion import Convolved, kept

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


def _gradient(stage: rr.Stage, images: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    weight = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=images.dtype)
    with rr.seeded(3):
        out = stage(images)
    return [out.detach(), *torch.autograd.grad((weight * out).sum(), leaves)]


@pytest.mark.parametrize("seed", [4, None])
@pytest.mark.parametrize("checkpointed", [True, 3])
@pytest.mark.parametrize("sampler", [None, diffusion.DDIM(), diffusion.DPMSolverPP()], ids=repr)
def test_checkpointed_gradients_are_those_of_plain_autograd(
    sampler: diffusion.Sampler | None, checkpointed: bool | int, seed: int | None
) -> None:
    denoiser, images = Convolved().double(), photos().double().requires_grad_()
    stage = rr.purifiers.DensePure(denoiser, 0.2, 7, sampler, seed, checkpointed)
    leaves = [images, *denoiser.parameters()]
    found, wanted = (_gradient(one, images, leaves) for one in (stage, stage.replace(checkpointed=False)))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


def test_checkpointing_keeps_one_image_a_step_for_one_more_call() -> None:
    denoiser, images = Convolved().requires_grad_(False), photos().requires_grad_()
    stage = rr.purifiers.DensePure(denoiser, steps=8)
    assert kept(lambda: stage(images)) <= 9 * images.numel()
    assert kept(lambda: stage.replace(checkpointed=False)(images)) > 20 * images.numel()
    for one, calls in ((stage, 16), (stage.replace(checkpointed=False), 8), (stage.replace(checkpointed=4), 24)):
        denoiser.calls = 0
        _gradient(one, images, [images])
        assert denoiser.calls == calls
    denoiser.calls = 0
    _gradient(stage.replace(steps=1), images, [images])
    assert denoiser.calls == 1  # nothing to gain


def test_gradcheck() -> None:
    stage = rr.purifiers.DensePure(Convolved(1).double(), 0.05, 3)
    own = torch.Generator().manual_seed(0)
    leaf = (0.3 + 0.4 * torch.rand(2, 1, 4, 3, generator=own, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(stage, leaf)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(TypeError, match="Denoiser"):
        rr.purifiers.DensePure(nn.Identity())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0"):
        rr.purifiers.DensePure(DENOISER, sigma=0)
