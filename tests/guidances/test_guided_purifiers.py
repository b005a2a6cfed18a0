"""Guidance inside a purifier: bit for bit nothing at strength 0, exact gradients, checkpoints, tiles, saving."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from toys_diffusion import Convolved, GaussianPrior, kept
from toys_guidance import LIKELIHOODS, LinearNet, SmoothNet, frozen_net, small

import robustrestore as rr
from robustrestore import diffusion, guidances
from robustrestore.purifiers import Diffusion

SAMPLERS = [diffusion.DDIM(), diffusion.DDPM()]
FREQUENCY = {
    "frequency": lambda: guidances.FrequencyGuidance(),
    "frequency, denoised": lambda: guidances.FrequencyGuidance(reference=guidances.Denoised(Convolved().double())),
}
ON_ESTIMATE = {
    f"{name} of the estimate": lambda make=LIKELIHOODS[name]: guidances.OnEstimate(make())
    for name in ("pixel", "features", "segmenter")
}
ALL = {**LIKELIHOODS, **FREQUENCY, **ON_ESTIMATE}


def denoiser() -> diffusion.Denoiser:
    return Convolved().double().requires_grad_(False)


def gradient(purifier: Diffusion, given: Tensor) -> Tensor:
    leaf = given.clone().requires_grad_()
    with rr.seeded(3):
        out = purifier(leaf)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(8), dtype=out.dtype)
    (found,) = torch.autograd.grad((weight * out).sum(), leaf)
    return found


class Detached(diffusion.Guidance):
    """The same correction with its path cut, as attacks have done that overrated guided defences."""

    def __init__(self, guidance: diffusion.Guidance) -> None:
        super().__init__()
        self.guidance = guidance

    def run(self, estimate: Tensor, noisy: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
        return estimate + (self.guidance(estimate, noisy, given, sigma) - estimate).detach()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("make", {**LIKELIHOODS, **ON_ESTIMATE}.values(), ids={**LIKELIHOODS, **ON_ESTIMATE})
def test_strength_zero_is_the_unguided_purifier_bit_for_bit(make, sampler: diffusion.Sampler) -> None:
    guidance, given = make(), small(size=12)
    if isinstance(guidance, guidances.OnEstimate):
        off: diffusion.Guidance = guidances.OnEstimate(guidance.guidance.replace(strength=0.0))
    else:
        off = guidance.replace(strength=0.0)
    for seed in (0, None):
        plain = Diffusion(denoiser(), 0.2, 4, sampler, seed=seed)
        with rr.seeded(5):
            wanted = plain(given)
        with rr.seeded(5):
            assert torch.equal(plain.replace(guidance=off)(given), wanted)
        assert torch.equal(gradient(plain.replace(guidance=off), given), gradient(plain, given))
    assert float((plain.replace(guidance=guidance, seed=0)(given) - plain.replace(seed=0)(given)).abs().max()) > 1e-4


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_the_gradient_equals_autograd_through_the_unrolled_chain(make) -> None:
    """Once by the purifier, once by a chain written out here, in both of which the guidance's own path is followed."""
    guidance, net, sampler, given = make(), denoiser(), diffusion.DDPM(), small(size=12)
    leaf = given.clone().requires_grad_()
    own = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(1, 3, 12, 12, generator=own).double()

    levels = sampler.levels(0.2, 3)
    noisy = leaf + 0.2 * draw()
    for now, then in pairwise(levels):
        clean = net(noisy, now)
        level = torch.full((2,), now, dtype=torch.float64)
        if isinstance(guidance, guidances.FrequencyGuidance):
            clean = guidance(clean, noisy, leaf, now)
        else:
            inner = guidance.guidance if isinstance(guidance, guidances.OnEstimate) else guidance
            seen = clean if inner is not guidance else noisy
            with rr.evaluating(inner):
                value = inner.likelihood(seen, leaf, level).sum()
            clean = clean + inner.strength * now**2 * torch.autograd.grad(value, noisy, create_graph=True)[0]
        spread = sampler.spread(now, then)
        noisy = clean + (max(0.0, then**2 - spread**2)) ** 0.5 / now * (noisy - clean)
        noisy = noisy + spread * draw() if spread > 0 else noisy
    weight = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    (wanted,) = torch.autograd.grad((weight * noisy).sum(), leaf)
    purifier = Diffusion(net, 0.2, 3, sampler, guidance=guidance)
    torch.testing.assert_close(purifier.run(given), noisy.detach(), atol=1e-12, rtol=0)
    for checkpointed in (True, False):
        found = gradient(purifier.replace(checkpointed=checkpointed), given)
        assert float((found - wanted).norm() / wanted.norm()) < 1e-10


@pytest.mark.parametrize("make", {**LIKELIHOODS, **FREQUENCY}.values(), ids={**LIKELIHOODS, **FREQUENCY})
def test_a_detached_guidance_points_elsewhere(make) -> None:
    given, purifier = small(size=12), Diffusion(denoiser(), 0.2, 4, guidance=make())
    cut = purifier.replace(guidance=Detached(make()))
    torch.testing.assert_close(cut(given), purifier(given))
    exact, other = gradient(purifier, given), gradient(cut, given)
    assert float((exact - other).norm() / exact.norm()) > 1e-4


def test_the_gradient_is_that_of_finite_differences() -> None:
    for make in (LIKELIHOODS["both, renoised"], ON_ESTIMATE["features of the estimate"], FREQUENCY["frequency, denoised"]):
        purifier = Diffusion(denoiser(), 0.1, 3, guidance=make())
        assert torch.autograd.gradcheck(purifier.run, small(1, 5).requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_checkpointed_gradients_are_plain_ones(make, sampler: diffusion.Sampler) -> None:
    given = small(size=12)
    for seed in (4, None):
        purifier = Diffusion(denoiser(), 0.2, 5, sampler, seed=seed, guidance=make())
        found, plain = gradient(purifier, given), gradient(purifier.replace(checkpointed=False), given)
        assert float((found - plain).norm() / plain.norm()) < 1e-12


def test_checkpointed_noise_of_a_reference_without_a_seed_is_replayed() -> None:
    guidance = guidances.PixelGuidance(20.0, 0.0, guidances.Renoised(seed=None))
    purifier = Diffusion(denoiser(), 0.2, 5, guidance=guidance)
    found, plain = (gradient(one, small()) for one in (purifier, purifier.replace(checkpointed=False)))
    torch.testing.assert_close(found, plain, atol=1e-12, rtol=0)


def test_fifty_guided_steps_checkpointed_and_plain() -> None:
    purifier = Diffusion(denoiser(), 0.2, 50, diffusion.DDPM(), guidance=LIKELIHOODS["both, renoised"]())
    found, plain = (gradient(one, small()) for one in (purifier, purifier.replace(checkpointed=False)))
    assert float((found - plain).norm() / plain.norm()) < 1e-10


@pytest.mark.parametrize("name", ["pixel", "features", "segmenter", "frequency", "features of the estimate"])
def test_checkpointing_keeps_one_image_a_step(name: str) -> None:
    purifier, given = Diffusion(denoiser(), 0.2, 16, guidance=ALL[name]()), small(size=12).requires_grad_()
    assert kept(lambda: purifier(given)) <= (16 + 2) * given.numel()
    assert kept(lambda: purifier.replace(checkpointed=False)(given)) > 70 * given.numel()


def test_network_calls() -> None:
    given = small(size=12)
    for name, calls in (("both, renoised", 14), ("frequency", 14), ("features of the estimate", 14)):
        net = denoiser()
        purifier = Diffusion(net, 0.2, 7, guidance=ALL[name]())
        gradient(purifier, given)
        assert net.calls == calls, name
        net.calls = 0
        gradient(purifier.replace(checkpointed=False), given)
        assert net.calls == 7
        net.calls = 0
        with torch.no_grad():
            purifier(given)
        assert net.calls == 7


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_it_works_without_gradients_and_makes_no_graph(make) -> None:
    given, purifier = small(size=12), Diffusion(denoiser(), 0.2, 3, guidance=make())
    plain = purifier(given)
    assert not plain.requires_grad
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            torch.testing.assert_close(purifier(given), plain, atol=1e-12, rtol=0)
    torch.testing.assert_close(purifier(given.clone().requires_grad_()).detach(), plain, atol=1e-12, rtol=0)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_batches_do_not_mix(make) -> None:
    given, purifier = small(3, 12), Diffusion(denoiser(), 0.2, 3, diffusion.DDPM(), guidance=make())
    both = purifier(given)
    for k in range(3):
        torch.testing.assert_close(purifier(given[k : k + 1]), both[k : k + 1], atol=1e-12, rtol=0)


def test_an_unfrozen_auxiliary_network_gets_no_gradient_and_makes_no_graph() -> None:
    net = SmoothNet().double()
    for guidance in (guidances.AGDM(net, 20.0), guidances.OnEstimate(guidances.AGDM(net, 20.0))):
        purifier = Diffusion(denoiser(), 0.2, 4, guidance=guidance)
        assert not purifier(small()).requires_grad
        purifier(small().requires_grad_()).square().sum().backward()
        assert all(p.grad is None for p in net.parameters())
        assert net.training


def test_the_denoisers_weights_are_reached() -> None:
    for name in ("pixel", "features of the estimate"):
        found = []
        for checkpointed in (True, False):
            net = Convolved().double()
            Diffusion(net, 0.2, 4, guidance=ALL[name](), checkpointed=checkpointed)(small()).square().sum().backward()
            found.append([p.grad for p in net.parameters()])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
        assert float(found[0][0].abs().max()) > 0


@pytest.mark.parametrize("name", ["pixel", "segmenter", "frequency", "pixel of the estimate"])
def test_tiles_are_for_the_denoiser_alone(name: str) -> None:
    given, net = small(1, 40), GaussianPrior()  # pixelwise, so that tiles change nothing of it
    whole = Diffusion(net, 0.2, 3, diffusion.DDPM(), guidance=ALL[name]())
    tiles = whole.replace(tile=16, overlap=4)
    torch.testing.assert_close(tiles(given), whole(given), atol=1e-9, rtol=0)
    torch.testing.assert_close(gradient(tiles, given), gradient(whole, given), atol=1e-8, rtol=1e-6)


def test_it_holds_a_purifier_to_its_input() -> None:
    given = small(4, 12)
    apart = []
    for strength in (0.0, 10.0, 20.0):
        guidance = guidances.PixelGuidance(strength, power=0.0)
        purified = Diffusion(GaussianPrior(0.5, 0.05), 0.15, 20, guidance=guidance)(given)
        apart.append(float((purified - given).square().mean()))
    assert apart[2] < 0.95 * apart[1] < 0.95 * 0.95 * apart[0], apart


def test_a_guided_purifier_is_saved_and_loaded(tmp_path) -> None:
    net = LinearNet(size=12)
    guidance = guidances.AGDM(net, 3.0, layer="body", label=guidances.AnyLabel(), reference=guidances.Renoised(seed=2))
    purifier = Diffusion(diffusion.SigmaUNet(width=4), 0.2, 2, guidance=guidance)
    purifier.save_pretrained(tmp_path)
    again = rr.Purifier.from_pretrained(tmp_path, {"guidance.network": net})
    assert again.config() == purifier.config()
    given = small(size=12).float()
    assert torch.equal(again(given), purifier(given))
    assert "guidance=AGDM(network=LinearNet, strength=3, layer='body'" in repr(purifier)
    assert "guidance" not in repr(purifier.replace(guidance=None))


def test_the_bpda_view_and_an_attack_on_the_guided_pipeline() -> None:
    net = SmoothNet().requires_grad_(False)
    purifier = Diffusion(Convolved(), 0.1, 3, guidance=guidances.AGDM(frozen_net().float(), 20.0))
    pipeline = rr.DefendedPipeline(net, [purifier])
    given = small(size=12).float()
    objective = rr.tasks.Classification().untargeted(net.eval()(given).argmax(1))
    for view in (pipeline, pipeline.straight_through()):
        found = rr.attacks.PGD(rr.Linf(8 / 255), steps=3)(view, given, objective)
        assert bool((objective.gain(view(found)) > objective.gain(view(given))).all())


def test_a_wrong_kind_of_guidance() -> None:
    with pytest.raises(TypeError, match=r"guidance: expected a Guidance such as guidances.PixelGuidance\(\), got type"):
        Diffusion(GaussianPrior(), guidance=guidances.PixelGuidance)


def test_similarity_takes_images_of_any_memory_order() -> None:
    given = small(size=16)
    turned = given.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    purifier = Diffusion(denoiser(), 0.2, 3, guidance=guidances.SSIMGuidance())
    torch.testing.assert_close(gradient(purifier, turned), gradient(purifier, given))
