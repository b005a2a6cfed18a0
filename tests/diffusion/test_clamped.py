"""Clamped: chains of diffusers that clip, exact gradients, and a part like any other."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toys import photos
from toys_diffusion import Convolved, GaussianPrior, Timed

import robustrestore as rr
from robustrestore import diffusion
from robustrestore.diffusion import Clamped

TIMES = [399, 250, 130, 61, 30, 4]  # high ones, so that many pixels are cut


def _start(a: Tensor) -> Tensor:
    noise = torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(4))
    return a.sqrt() * (2 * photos() - 1) + (1 - a).sqrt() * noise


def _ours(sampler: diffusion.Sampler, denoiser: diffusion.Denoiser, y: Tensor, levels: list[float]) -> Tensor:
    own = torch.Generator().manual_seed(0)
    for now, then in pairwise(levels):
        noise = torch.randn(y.shape, generator=own) if sampler.spread(now, then) > 0 else None
        y = sampler.step(y, denoiser(y, now), now, then, noise)
    return y


@pytest.mark.parametrize("reach", [1.0, 0.6])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["DDPM", "DDIM"])
def test_a_chain_is_that_of_diffusers_with_clip_sample(name: str, prediction: str, reach: float) -> None:
    import diffusers

    options = {"prediction_type": prediction, "clip_sample": True, "clip_sample_range": reach}
    if name == "DDPM":
        scheduler, sampler, times = diffusers.DDPMScheduler(**options), diffusion.DDPM(), TIMES
        scheduler.set_timesteps(timesteps=times)
        further: dict[str, object] = {"generator": torch.Generator().manual_seed(0)}
    else:
        scheduler = diffusers.DDIMScheduler(**options, timestep_spacing="leading", steps_offset=99)
        scheduler.set_timesteps(10)
        times, sampler = [int(t) for t in scheduler.timesteps[-4:]], diffusion.DDIM()
        assert times == [399, 299, 199, 99]
        further = {"use_clipped_model_output": True}
    network = Timed()
    plain = diffusion.DiscreteTime(network, prediction=prediction)
    clamped = Clamped(plain, (1 - reach) / 2, (1 + reach) / 2)
    a = scheduler.alphas_cumprod[times[0]]
    z = _start(a)
    y, levels = (z / a.sqrt() + 1) / 2, [plain.sigma(t) for t in times] + [0.0]
    with torch.no_grad():
        for t in times:
            z = scheduler.step(network(z, torch.tensor([t, t])), t, z, **further).prev_sample
        torch.testing.assert_close(_ours(sampler, clamped, y, levels), (z + 1) / 2, atol=1e-5, rtol=0)
        assert (_ours(sampler, plain, y, levels) - (z + 1) / 2).abs().max() > 0.05  # it cuts something


def test_values_and_gradients_are_exact() -> None:
    noisy = torch.tensor([-2.0, -0.3, 0.4, 0.9, 2.0], dtype=torch.float64).view(1, 1, 1, 5).requires_grad_()
    prior = GaussianPrior(mean=0.4, std=0.1)
    trust = 0.1**2 / (0.1**2 + 0.1**2)
    found = Clamped(prior, 0.1, 0.6)(noisy, 0.1)
    torch.testing.assert_close(found, (0.4 + trust * (noisy - 0.4)).clamp(0.1, 0.6))
    (gradient,) = torch.autograd.grad(found.sum(), noisy)
    assert gradient.flatten().tolist() == pytest.approx([0, 0, trust, 0, 0])


def test_checkpoints_tiles_and_faster_ways_leave_it_as_it_is() -> None:
    clamped = Clamped(Convolved().requires_grad_(False), 0.3, 0.7)
    images = photos(2, 24, 24)
    purifier = rr.purifiers.Diffusion(clamped, sigma=0.3, steps=3, sampler=diffusion.DDPM(), checkpointed=False)

    def both(stage: rr.Purifier) -> tuple[Tensor, Tensor]:
        leaf = images.clone().requires_grad_()
        out = stage(leaf)
        return out.detach(), torch.autograd.grad(out.square().sum(), leaf)[0]

    wanted = both(purifier)
    assert 0.3 <= float(wanted[0].amin()) < float(wanted[0].amax()) <= 0.7
    torch.testing.assert_close(both(purifier.replace(checkpointed=True)), wanted)
    torch.testing.assert_close(both(purifier.replace(checkpointed=2)), wanted)
    tiles = both(purifier.replace(tile=16, overlap=4))
    assert 0.3 - 1e-6 <= float(tiles[0].amin()) < float(tiles[0].amax()) <= 0.7 + 1e-6
    torch.testing.assert_close(both(purifier.replace(tile=16, overlap=4, checkpointed=True)), tiles)
    fast = rr.optimise(purifier, [diffusion.ChannelsLast], images)
    assert isinstance(fast.denoiser.denoiser, Clamped)
    torch.testing.assert_close(both(fast), wanted, atol=1e-5, rtol=1e-4)


def test_it_wraps_and_is_wrapped_pads_as_the_inner_one_and_keeps_weights(tmp_path: Path) -> None:
    unet = diffusion.SigmaUNet(width=4).eval()
    torch.nn.init.normal_(unet.body.head.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    clamped = Clamped(diffusion.ChannelsLast(unet), 0.2, 0.8)
    assert clamped.multiple == 8
    noisy = photos(1, 17, 23)
    assert torch.equal(clamped(noisy, 0.3), unet(noisy, 0.3).clamp(0.2, 0.8))
    clamped.save_pretrained(tmp_path)
    again = rr.Denoiser.from_pretrained(tmp_path)
    assert repr(again) == repr(clamped)
    assert torch.equal(again(noisy, 0.3), clamped(noisy, 0.3))
    assert torch.equal(diffusion.BFloat16(clamped)(noisy, 0.3), diffusion.BFloat16(unet)(noisy, 0.3).clamp(0.2, 0.8))


def test_wrong_values() -> None:
    prior = GaussianPrior()
    for low, high in ((1.0, 0.0), (0.5, 0.5), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="low, high: expected finite numbers, low below high, got"):
            Clamped(prior, low, high)
    with pytest.raises(TypeError, match="denoiser: expected a Denoiser, got Timed"):
        Clamped(Timed())
