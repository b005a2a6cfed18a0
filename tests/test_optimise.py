"""optimise: the same part, faster: equal within a bound, the original as it was, names, settings and gradients kept."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from toys import photos
from toys_diffusion import Convolved, GaussianPrior, Timed
from toys_guidance import frozen_net

import robustrestore as rr
from robustrestore import diffusion, guidances, purifiers
from robustrestore.diffusion import BFloat16, ChannelsLast, Compiled, Float16, Graphed
from robustrestore.optimise import largest_difference, optimise

Eager = partial(Compiled, backend="aot_eager")  # traces and makes graphs of both passes, without a C++ compiler
EXACT = [[ChannelsLast], [Eager], [ChannelsLast, Eager]]


def unet(seed: int = 0) -> diffusion.SigmaUNet:
    """Drawn weights, none of them zero."""
    with rr.seeded(seed):
        made = diffusion.SigmaUNet(width=4)
        nn.init.normal_(made.body.head.weight, std=0.1)
    return made.eval().requires_grad_(False)


def gradient(part: nn.Module, images: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(part(leaf).square().sum(), leaf)
    return found


def wrapped(part: nn.Module) -> list[diffusion.Faster]:
    return [one for one in part.modules() if isinstance(one, diffusion.Faster)]


@pytest.mark.parametrize("ways", EXACT, ids=str)
def test_it_gives_the_same_images_and_gradients_up_to_rounding(ways: list) -> None:
    denoiser = diffusion.DiscreteTime(Timed().requires_grad_(False))
    purifier, images = purifiers.Diffusion(denoiser, steps=3, sampler=diffusion.DDPM()), photos()
    fast = optimise(purifier, ways, images, tolerance=1e-5)
    assert type(fast) is purifiers.Diffusion
    torch.testing.assert_close(fast(images), purifier(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient(fast, images), gradient(purifier, images), atol=1e-5, rtol=1e-4)
    assert largest_difference(purifier, fast, images) <= 1e-5


def test_the_original_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1))
    pipeline = rr.DefendedPipeline(model, [purifiers.Diffusion(unet(), steps=2), purifiers.Blur()])
    images, before = photos(), {k: v.clone() for k, v in pipeline.state_dict().items()}
    first, told, strides = pipeline(images), repr(pipeline), [p.stride() for p in pipeline.parameters()]
    fast = rr.optimise(pipeline, [ChannelsLast, BFloat16])
    for weight in fast.stages[0].denoiser.parameters():
        weight.data.zero_()
    assert torch.equal(pipeline(images), first)
    assert repr(pipeline) == told
    assert [p.stride() for p in pipeline.parameters()] == strides
    assert all(torch.equal(v, before[k]) for k, v in pipeline.state_dict().items())
    assert fast.model is model
    assert fast.stages[1] is pipeline.stages[1]


def test_names_are_the_originals_so_that_states_load_both_ways() -> None:
    one, other = (rr.DefendedPipeline(nn.Conv2d(3, 2, 1), [purifiers.Diffusion(unet(k), steps=2)]) for k in (0, 1))
    fast = optimise(one, [ChannelsLast, BFloat16])
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in one.named_parameters()]
    assert list(fast.state_dict()) == list(one.state_dict())
    fast.load_state_dict(other.state_dict())
    assert largest_difference(other, fast, photos()) < 0.02
    other.load_state_dict(optimise(one, [ChannelsLast]).state_dict())
    assert largest_difference(other, one, photos()) == 0


def test_buffers_that_are_not_saved_stay_unsaved() -> None:
    denoiser = diffusion.DiscreteTime(Timed())
    fast = optimise(denoiser, [BFloat16])
    assert list(fast.state_dict()) == list(denoiser.state_dict()) == ["network.conv.weight", "network.conv.bias"]
    assert next(iter(fast.double().buffers())) is fast.denoiser._bits


def test_it_prints_replaces_saves_and_loads(tmp_path) -> None:
    purifier = optimise(purifiers.Diffusion(unet(), steps=3), [ChannelsLast, BFloat16, Eager])
    told = "denoiser=Compiled(denoiser=BFloat16(denoiser=ChannelsLast(denoiser=SigmaUNet(channels=3, width=4)))"
    assert told in repr(purifier)
    assert purifier.replace(steps=2).denoiser is purifier.denoiser
    purifier.save_pretrained(tmp_path)
    again = rr.Purifier.from_pretrained(tmp_path)
    assert again.config() == purifier.config()
    assert torch.equal(again(photos()), purifier(photos()))


def test_a_foreign_network_keeps_its_path(tmp_path) -> None:
    network = Timed()
    purifier = optimise(purifiers.Diffusion(diffusion.DiscreteTime(network), steps=2), [BFloat16])
    purifier.save_pretrained(tmp_path)
    again = rr.Purifier.from_pretrained(tmp_path, {"denoiser.network": network})
    assert again.denoiser.denoiser.network is network
    assert torch.equal(again(photos()), purifier(photos()))


def test_bfloat16_is_for_the_network_alone() -> None:
    denoiser, seen = unet(), []
    low = optimise(denoiser, [BFloat16])
    low.body.stem.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    assert low(photos(), 0.1).dtype == torch.float32
    assert seen == [torch.bfloat16]
    assert 1e-5 < largest_difference(denoiser, low, photos()) < 0.05
    steps = purifiers.Diffusion(GaussianPrior(), steps=5, sampler=diffusion.VPSDE())  # no convolution: nothing is rounded
    assert largest_difference(steps, optimise(steps, [BFloat16]), photos()) == 0


def test_float16_is_for_calls_without_gradients() -> None:
    denoiser, seen = unet(), []
    low = optimise(denoiser, [Float16])
    low.body.stem.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    leaf = photos().requires_grad_()
    faint = torch.full_like(leaf, 1e-9)  # below what float16 can hold
    (found,) = torch.autograd.grad(low(leaf, 0.1), leaf, faint)
    (wanted,) = torch.autograd.grad(denoiser(leaf, 0.1), leaf, faint)
    assert torch.equal(found, wanted)
    with torch.no_grad():
        assert low(photos(), 0.1).dtype == torch.float32
    assert seen == [torch.float32, torch.float16]
    assert 1e-6 < largest_difference(denoiser, low, photos()) < 0.01


def test_a_difference_above_the_tolerance_raises() -> None:
    purifier, images = purifiers.Diffusion(unet(), steps=2), photos()
    with pytest.raises(ValueError, match=r"expected outputs within 1e-06 of the original's, got 0\.\d+ on 2 images: leave out"):
        optimise(purifier, [BFloat16], images, tolerance=1e-6)
    assert optimise(purifier, [BFloat16], images, tolerance=0.05)

    class Broken(diffusion.Faster):
        def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
            return self.plainly(noisy, sigma) * float("nan")

    with pytest.raises(ValueError, match="got nan"):
        optimise(purifier, [Broken], images, tolerance=1.0)


def test_the_difference_is_that_of_one_pixel_whatever_is_random() -> None:
    class Shifted(diffusion.Faster):
        def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
            estimate = self.plainly(noisy, sigma).clone()
            estimate[1, 2, 3, 4] += 0.25
            return estimate

    purifier, images = purifiers.Diffusion(GaussianPrior(), 0.01, 1, seed=None), photos()
    state = torch.random.get_rng_state()
    for part in (purifier, rr.DefendedPipeline(nn.Identity(), [purifier]), purifier.denoiser):
        assert largest_difference(part, optimise(part, [Shifted]), images) == pytest.approx(0.25, abs=1e-6)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_every_denoiser_is_found_and_a_shared_one_stays_shared() -> None:
    net = unet()
    guidance = guidances.OnEstimate(guidances.PixelGuidance(reference=guidances.Denoised(net)))
    one = purifiers.Diffusion(net, steps=2, guidance=guidance)
    features = rr.Features(nn.Sequential(nn.AdaptiveAvgPool2d(1)), "0")
    adaptive = purifiers.Adaptive.of([one, purifiers.Blur()], features, features.statistics(photos(5)))
    stages = [purifiers.Rounds(one, [[0.1, 2]]), purifiers.Ensemble(one, 2), purifiers.ScoreOpt(net, iterations=2), adaptive]
    fast = optimise(rr.DefendedPipeline(nn.Identity(), stages), [ChannelsLast, BFloat16])
    assert len(wrapped(fast)) == 1
    assert not any(isinstance(part, diffusion.SigmaUNet) for part in fast.modules())
    assert torch.equal(fast.stages[3].mean, adaptive.mean)
    assert largest_difference(rr.DefendedPipeline(nn.Identity(), stages), fast, photos(2, 32, 32)) < 0.1
    bpda = optimise(rr.DefendedPipeline(nn.Identity(), [one]).straight_through(), [BFloat16])
    assert len(wrapped(bpda)) == 1


@pytest.mark.parametrize(
    "guidance",
    [None, lambda: guidances.PixelGuidance(20.0), lambda: guidances.OnEstimate(guidances.AGDM(frozen_net().float(), 20.0))],
    ids=["plain", "guided", "guided through the denoiser"],
)
def test_attacks_through_it_work(guidance) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 18, 5)).requires_grad_(False)
    purifier = purifiers.Diffusion(Convolved().requires_grad_(False), steps=2, guidance=guidance and guidance())
    pipeline = rr.DefendedPipeline(model, [purifier])
    fast = optimise(pipeline, [ChannelsLast, Eager])
    torch.testing.assert_close(gradient(fast, photos()), gradient(pipeline, photos()), atol=1e-5, rtol=1e-4)
    low = optimise(pipeline, [BFloat16])
    objective = rr.tasks.Classification().untargeted(pipeline(photos()).argmax(1))
    for one in (fast, low, low.straight_through()):
        found = rr.attacks.PGD(rr.Linf(8 / 255), steps=2)(one, photos(), objective)
        assert bool((objective.gain(pipeline(found)) > objective.gain(pipeline(photos()))).all())


def test_score_opt_is_differentiated_twice_past_the_compiled_graph() -> None:
    stage = purifiers.ScoreOpt(Convolved().requires_grad_(False), iterations=2)
    fast = optimise(stage, [Eager])
    with torch.no_grad():
        torch.testing.assert_close(fast(photos()), stage(photos()), atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient(fast, photos()), gradient(stage, photos()), atol=1e-4, rtol=1e-3)


def test_compiled_copies_are_about_their_own_weights() -> None:
    first = Eager(diffusion.NoiseConditioned(Timed()))
    before = first(photos(), 0.1)
    second = copy.deepcopy(first)
    for weight in second.parameters():
        weight.data.mul_(2)
    assert (second(photos(), 0.1) - before).abs().max() > 1e-3
    assert torch.equal(first(photos(), 0.1), before)


def test_modes_and_weights_reach_a_denoiser_that_is_no_module_of_its_own() -> None:
    class Moody(diffusion.Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.tensor(0.5))

        def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
            return noisy + self.shift * self.training

    fast, images = BFloat16(Moody()), photos()
    assert torch.equal(fast.eval()(images, 0.1), images)
    assert torch.equal(fast.train()(images, 0.1), images + 0.5)
    with rr.evaluating(fast):
        assert torch.equal(fast(images, 0.1), images)
    assert fast.double()(images.double(), 0.1).dtype == torch.float64
    assert fast.denoiser.shift.dtype == torch.float64
    moved = torch.func.functional_call(fast, {"shift": torch.tensor(0.25)}, (images, 0.1))
    assert torch.equal(moved, images + 0.25)


def test_diffusers_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from diffusers import DDPMScheduler, UNet2DModel

    with rr.seeded(0):
        blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
        network = UNet2DModel(8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    denoiser = rr.integrations.diffusers.denoiser_from(network.requires_grad_(False), DDPMScheduler())
    purifier, images = purifiers.Diffusion(denoiser, steps=2), photos()
    fast = optimise(purifier, [ChannelsLast, Eager], images, tolerance=1e-4)
    torch.testing.assert_close(gradient(fast, images), gradient(purifier, images), atol=1e-4, rtol=1e-3)
    assert 1e-6 < largest_difference(purifier, optimise(purifier, [BFloat16]), images) < 0.1
    assert list(fast.state_dict()) == list(purifier.state_dict())


def test_wrong_parts_and_ways() -> None:
    with pytest.raises(ValueError, match=r"part: expected a denoiser in it, found none in Blur\(.*torch.compile"):
        optimise(purifiers.Blur())
    with pytest.raises(TypeError, match="part: expected a pipeline, a purifier or restorer, or a denoiser, got Conv2d"):
        optimise(nn.Conv2d(3, 3, 1))
    with pytest.raises(TypeError, match="ways: expected classes such as diffusion.BFloat16, got <built-in function repr>"):
        optimise(unet(), [lambda one: one, repr])
    with pytest.raises(TypeError, match="denoiser: expected a Denoiser, got Conv2d"):
        BFloat16(nn.Conv2d(3, 3, 1))


def test_graphs_need_cuda() -> None:
    fast = optimise(purifiers.Diffusion(unet()), [Graphed])
    with pytest.raises(ValueError, match="Graphed: expected images on a CUDA device, got them on cpu: leave Graphed out"):
        fast(photos())
    with pytest.raises(ValueError, match="got them on cpu"):
        optimise(purifiers.Diffusion(unet()), [Graphed], photos())


@pytest.mark.gpu
def test_graphs_give_the_same_images_and_follow_the_weights() -> None:
    purifier, images = purifiers.Diffusion(unet(), steps=3, sampler=diffusion.DDPM()).cuda(), photos().cuda()
    fast = optimise(purifier, [ChannelsLast, Graphed], images, tolerance=1e-4)
    with torch.no_grad():
        first = fast(images)
        assert torch.equal(fast(images), first)
        assert len(fast.denoiser._graphs) == 1
        torch.testing.assert_close(fast(images[:1]), purifier(images[:1]), atol=1e-4, rtol=0)
        assert len(fast.denoiser._graphs) == 2
    with torch.inference_mode():
        torch.testing.assert_close(fast(images), first)
    torch.testing.assert_close(gradient(fast, images), gradient(purifier, images), atol=1e-4, rtol=1e-3)
    other = purifiers.Diffusion(unet(1), steps=3, sampler=diffusion.DDPM()).cuda()
    fast.load_state_dict(other.state_dict())
    assert largest_difference(fast, other, images) < 1e-4
    fast = fast.cpu().cuda()
    assert largest_difference(fast, other, images) < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("ways", [[Float16], [BFloat16, Graphed], [ChannelsLast, BFloat16, Compiled, Graphed]], ids=str)
def test_on_a_gpu(ways: list) -> None:
    purifier, images = purifiers.Diffusion(unet(), steps=3).cuda(), photos().cuda()
    fast = optimise(purifier, ways, images, tolerance=0.05)
    assert bool(gradient(fast, images).isfinite().all())


@pytest.mark.slow
@pytest.mark.parametrize("ways", [[Compiled], [ChannelsLast, BFloat16, Compiled]], ids=str)
def test_compiled_for_real(ways: list) -> None:
    purifier, images = purifiers.Diffusion(unet(), steps=2), photos()
    fast = optimise(purifier, ways, images, tolerance=1e-5 if BFloat16 not in ways else 0.05)
    wanted = gradient(purifier, images)
    assert float((gradient(fast, images) - wanted).norm() / wanted.norm()) < (1e-4 if BFloat16 not in ways else 0.1)
