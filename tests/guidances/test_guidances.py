"""The shelf of guidances: closed forms, references from elsewhere, and the open points of AGDM one by one."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from toys import PixelSegmenter, photos
from toys_diffusion import Convolved, GaussianPrior, Oracle
from toys_guidance import LinearNet, SmoothNet, frozen_net, small

import robustrestore as rr
from robustrestore.guidances import (
    AGDM,
    AnyLabel,
    Denoised,
    FrequencyGuidance,
    LabelOfNoisy,
    OnEstimate,
    PixelGuidance,
    Renoised,
    SSIMGuidance,
)
from robustrestore.guidances.pixel import similarity

SIGMA = 0.15


def noisy_of(given: Tensor, sigma: float = SIGMA) -> Tensor:
    return given + sigma * torch.randn(given.shape, generator=torch.Generator().manual_seed(1), dtype=given.dtype)


def shift(guidance: rr.Guidance, noisy: Tensor, given: Tensor, sigma: float = SIGMA) -> Tensor:
    return guidance(torch.zeros_like(given), noisy, given, sigma)


# Pixels


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_pixels_are_pulled_in_proportion(power: float) -> None:
    given, noisy = small(), noisy_of(small())
    found = shift(PixelGuidance(2.0, power), noisy, given)
    torch.testing.assert_close(found, 4 * SIGMA ** (2 + power) * (given - noisy))


def test_gdmps_own_scale_in_its_own_units() -> None:
    """mean += Sigma s_t grad_z -D with s_t = sqrt(1-a) / (sqrt(a) m), z = sqrt(a) (2 y - 1), D the mean over one image."""
    given, sigma = small(1), 0.06
    a, m = 1 / (1 + 4 * sigma**2), (2 * 8 / 255) / (3 * 6e4)
    noisy = noisy_of(given, sigma)
    z = (a**0.5 * (2 * noisy - 1)).requires_grad_()
    (g,) = torch.autograd.grad(-(z - a**0.5 * (2 * given - 1)).square().mean(), z)
    score = (1 - a) ** 0.5 / (a**0.5 * m) * g  # of z; that of y = (z / sqrt(a) + 1) / 2 is 2 sqrt(a) times it
    wanted = sigma**2 * 2 * a**0.5 * score
    assert float(wanted.abs().max()) > 1  # one unit step of many is short, our steps are long
    guidance = PixelGuidance(strength=8 / m / given.numel())
    level = torch.full((1,), sigma, dtype=torch.float64)
    place = noisy.clone().requires_grad_()
    (ours,) = torch.autograd.grad(guidance.likelihood(place, given, level).sum(), place)
    torch.testing.assert_close(sigma**2 * guidance.strength * ours * a, wanted)


def test_ssim_is_that_of_torchmetrics() -> None:
    first = photos(3, 20, 17).double()
    second = noisy_of(first).clamp(0, 1)
    _, full = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none", return_full_image=True)
    torch.testing.assert_close(similarity(first, second), full[..., 5:-5, 5:-5], atol=1e-7, rtol=0)
    torch.testing.assert_close(similarity(first, first), torch.ones(3, 3, 10, 7).double())


def test_a_step_along_ssim_raises_it() -> None:
    given = small(3, 16)
    noisy = noisy_of(given)
    moved = noisy + shift(SSIMGuidance(1.0), noisy, given)
    assert bool((similarity(moved, given).flatten(1).mean(1) > similarity(noisy, given).flatten(1).mean(1) + 1e-3).all())
    with pytest.raises(ValueError, match="SSIM: expected images of at least 11 x 11 pixels, got 6 x 6"):
        shift(SSIMGuidance(), small(), small())


# References


def test_renoised_has_the_level_and_other_noise_in_each_step() -> None:
    given = photos(2, 64, 64)
    reference = Renoised(seed=4)
    drawn = [(reference.run(given, torch.full((2,), s)) - given) / s for s in (0.1, 0.2)]
    for noise in drawn:
        assert abs(float(noise.std()) - 1) < 0.02
        torch.testing.assert_close(noise[0], noise[1], atol=1e-5, rtol=0)  # alike for every image
    assert abs(float(torch.corrcoef(torch.stack([d[0].flatten() for d in drawn]))[0, 1])) < 0.05
    own = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))  # the purifier's noise of that seed
    assert abs(float(torch.corrcoef(torch.stack([drawn[0][0].flatten(), own.flatten()]))[0, 1])) < 0.05
    mixed = reference.run(given, torch.tensor([0.1, 0.2]))
    for k, s in enumerate((0.1, 0.2)):
        assert torch.equal(mixed[k : k + 1], reference.run(given[k : k + 1], torch.tensor([s])))
    assert not torch.equal(Renoised(seed=5).run(given, torch.full((2,), 0.1)), reference.run(given, torch.full((2,), 0.1)))


def test_renoised_without_a_seed_follows_the_global_generator() -> None:
    given, level = photos(2), torch.full((2,), 0.1)
    with rr.seeded(1):
        first = Renoised(seed=None).run(given, level)
        assert not torch.equal(Renoised(seed=None).run(given, level), first)
    with rr.seeded(1):
        assert torch.equal(Renoised(seed=None).run(given, level), first)
    assert not torch.equal(first[0] - given[0], first[1] - given[1])


def test_a_renoised_target_of_pixels() -> None:
    given, noisy = small(), noisy_of(small())
    target = Renoised(seed=4).run(given, torch.full((2,), SIGMA, dtype=torch.float64))
    found = shift(PixelGuidance(2.0, 0.0, Renoised(seed=4)), noisy, given)
    torch.testing.assert_close(found, 4 * SIGMA**2 * (target - noisy))


def test_denoised_is_a_one_step_estimate_at_its_own_level() -> None:
    given, oracle = small(), Oracle(small(seed=9))
    reference = Denoised(oracle, sigma=0.2, seed=1)
    for level in (0.05, 0.1):
        assert torch.equal(reference.run(given, torch.full((2,), level)), small(seed=9))
    assert oracle.told == pytest.approx([0.2, 0.2])
    assert torch.equal(*oracle.shown)
    assert 0.15 < float((oracle.shown[0] - given).std()) < 0.25
    net = Convolved().double()
    leaf = given.clone().requires_grad_()
    Denoised(net).run(leaf, torch.ones(2)).sum().backward()
    assert float(leaf.grad.abs().sum()) > 0
    assert all(p.grad is None for p in net.parameters())


# AGDM


def test_a_linear_latent_shifts_the_mean_in_closed_form() -> None:
    net, given = LinearNet().double(), small()
    noisy, w = noisy_of(given), net.body.weight
    found = shift(AGDM(net, strength=0.7, feature_weight=3.0, class_weight=0.0), noisy, given)
    apart = (noisy - given).flatten(1) @ w.T  # 5 features, averaged
    wanted = -0.7 * 3.0 * SIGMA**2 * 2 / 5 * (apart @ w)
    torch.testing.assert_close(found.flatten(1), wanted.detach())
    scores = shift(AGDM(net, strength=0.7, layer="", class_weight=0.0), noisy, given)
    whole = net.head.weight @ w
    wanted = -0.7 * SIGMA**2 * 2 / 3 * ((noisy - given).flatten(1) @ whole.T @ whole)
    torch.testing.assert_close(scores.flatten(1), wanted.detach())


@pytest.mark.parametrize("sampler", [rr.diffusion.DDIM(), rr.diffusion.DDPM()], ids=repr)
def test_guided_sampling_of_a_gaussian_follows_theory(sampler: rr.Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaussian prior N(m, p^2), exact denoiser, linear latent: each step is affine, mean and covariance are known."""
    net, x, m, p, s = LinearNet().double(), small(1).flatten(), 0.45, 0.2, 3.0
    guidance = AGDM(net, strength=s, class_weight=0.0)
    purifier = rr.purifiers.Diffusion(GaussianPrior(m, p), 0.2, 4, sampler, seed=None, guidance=guidance)
    gram, eye = (net.body.weight.T @ net.body.weight).detach() * 2 / 5, torch.eye(108, dtype=torch.float64)
    levels = sampler.levels(0.2, 4)
    mean, covariance = x, levels[0] ** 2 * eye
    for now, then in pairwise(levels):
        trust, spread = p**2 / (p**2 + now**2), sampler.spread(now, then) if then else 0.0
        clean = m + trust * (mean - m) - s * now**2 * (gram @ (mean - x))
        kept = math.sqrt(max(0.0, then**2 - spread**2)) / now
        step = kept * eye + (1 - kept) * (trust * eye - s * now**2 * gram)
        mean, covariance = clean + kept * (mean - clean), step @ covariance @ step.T + spread**2 * eye
    with rr.seeded(0):
        drawn = purifier.run(x.view(1, 3, 6, 6).expand(4000, -1, -1, -1)).flatten(1)
    ways = torch.linalg.eigh(gram)[1][:, [0, -3, -1]]  # unguided, and guided ones
    found, wanted = (drawn @ ways).std(0), (ways * (covariance @ ways)).sum(0).sqrt()
    torch.testing.assert_close(found, wanted, atol=0, rtol=0.05)
    assert float(wanted[2]) < 0.8 * float(wanted[0])
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # affine in the noise: without any it is the mean
    torch.testing.assert_close(purifier.run(x.view(1, 3, 6, 6)).flatten(), mean)
    assert float((purifier.replace(guidance=None).run(x.view(1, 3, 6, 6)).flatten() - mean).abs().max()) > 1e-3


def test_which_class_is_meant() -> None:
    net, given = LinearNet().double(), small(6)
    noisy = small(6, seed=8)
    scores, about = net(noisy), net(given)
    assert (scores.argmax(1) != about.argmax(1)).any()
    body = (net.head.weight @ net.body.weight).detach()
    share = scores.softmax(1)
    hot = {
        "input": nn.functional.one_hot(about.argmax(1), 3) - share,
        "noisy": nn.functional.one_hot(scores.argmax(1), 3) - share,
        "any": share,
    }
    for name, label in (("input", None), ("noisy", LabelOfNoisy()), ("any", AnyLabel())):
        found = shift(AGDM(net, strength=0.5, feature_weight=0.0, class_weight=2.0, label=label), noisy, given)
        torch.testing.assert_close(found.flatten(1), (SIGMA**2 * hot[name] @ body).detach(), atol=1e-9, rtol=1e-6)


def test_terms_add_up() -> None:
    net, given, noisy = frozen_net(), small(), noisy_of(small())
    both = shift(AGDM(net, 2.0, feature_weight=1.5, class_weight=0.5), noisy, given)
    alone = [shift(AGDM(net, 2.0, feature_weight=f, class_weight=c), noisy, given) for f, c in ((1.5, 0.0), (0.0, 0.5))]
    torch.testing.assert_close(both, alone[0] + alone[1])
    assert all(float(one.abs().max()) > 1e-6 for one in alone)


def test_the_reference_is_for_features_and_the_label_for_the_input() -> None:
    net, given, noisy = frozen_net(), small(), noisy_of(small())
    for feature, expected in ((0.0, True), (1.0, False)):
        raw, renoised = (
            shift(AGDM(net, feature_weight=feature, class_weight=1.0, reference=r), noisy, given) for r in (None, Renoised())
        )
        assert torch.equal(raw, renoised) == expected


def test_layers() -> None:
    net, given, noisy = frozen_net(), small(), noisy_of(small())
    latents = {}
    for layer, wanted in ((None, "drop"), ("head", None), ("conv", None)):
        part = net.get_submodule(wanted or layer)
        handle = part.register_forward_hook(lambda m, i, o, layer=layer: latents.__setitem__(layer, o))
        with rr.evaluating(net):
            net(noisy)
        handle.remove()
        seen = latents[layer] if layer else latents[layer].mean((2, 3), keepdim=True)
        level = torch.full((2,), SIGMA, dtype=torch.float64)
        found = AGDM(net, layer=layer, class_weight=0.0).likelihood(noisy, noisy.flip(0), level)
        torch.testing.assert_close(found, -(seen - seen.flip(0)).square().mean(1).flatten(1).sum(1))
    with pytest.raises(ValueError, match="layer: expected one of .*'head'.*, got 'neck': see named_modules"):
        AGDM(net, layer="neck")
    with pytest.raises(ValueError, match="layer: expected the name of a module, got None and no linear layer"):
        AGDM(PixelSegmenter())
    assert AGDM(PixelSegmenter(), layer="")(given, noisy, given, SIGMA).shape == given.shape


def test_a_segmenter_of_any_size_is_pulled_alike_at_each_pixel() -> None:
    guidance = AGDM(frozen_net(pixels=True), strength=1.0)
    given = small(1, 24)
    noisy = noisy_of(given)
    whole, part = shift(guidance, noisy, given), shift(guidance, noisy[..., :16, :16], given[..., :16, :16])
    torch.testing.assert_close(part[..., :12, :12], whole[..., :12, :12])
    assert float(whole.abs().max()) > 1e-3


def test_the_network_is_left_as_it_is() -> None:
    net = SmoothNet().double()  # trainable, in training mode, one part not
    net.norm.eval()
    net.norm.weight.grad = torch.ones_like(net.norm.weight)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    given = small().requires_grad_()
    state = torch.random.get_rng_state()
    out = AGDM(net, 20.0)(given * 0.9, given + 0.1, given, SIGMA)
    out.square().sum().backward()
    assert torch.equal(torch.random.get_rng_state(), state)  # no dropout was drawn
    assert [net.training, net.drop.training, net.norm.training] == [True, True, False]
    assert all(p.requires_grad for p in net.parameters())
    assert [name for name, p in net.named_parameters() if p.grad is not None] == ["norm.weight"]
    assert torch.equal(net.norm.weight.grad, torch.ones_like(net.norm.weight))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    assert not AGDM(net, 20.0)(given.detach(), given.detach(), given.detach(), SIGMA).requires_grad


def test_larger_strength_brings_features_nearer() -> None:
    net, given = frozen_net(), small(16, 12)
    purified = {}
    for strength in (0.0, 30.0, 100.0, 300.0):
        guidance = AGDM(net, strength, layer="conv", class_weight=0.0)
        purified[strength] = rr.purifiers.Diffusion(GaussianPrior(0.5, 0.1), 0.2, 20, guidance=guidance)(given)
    level = torch.zeros(16, dtype=torch.float64)
    apart = [-guidance.likelihood(one, given, level).mean() for one in purified.values()]
    assert all(float(b) < 0.97 * float(a) for a, b in pairwise(apart)), apart


def test_agdm_works_behind_adapted_and_for_another_dtype() -> None:
    net = rr.Adapted(SmoothNet(), mean=[0.5] * 3, std=[0.25] * 3)
    given = small()
    out = AGDM(net, 20.0, layer="model.conv")(given, noisy_of(given), given, SIGMA)  # float64 images, float32 network
    assert out.dtype == torch.float64
    assert float((out - given).abs().max()) > 1e-4


# Frequencies


def spectrum(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    f = torch.fft.fft2(images)
    height, width = images.shape[-2:]
    radius = torch.hypot(torch.fft.fftfreq(height, 1 / height)[:, None], torch.fft.fftfreq(width, 1 / width)[None])
    return f.abs(), f.angle(), radius


@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 20), (17, 11)])
@pytest.mark.parametrize(("amplitude", "phase"), [(3.0, 2.0), (2.0, 4.0), (0.0, 3.0)])
def test_low_frequencies_are_the_inputs(height: int, width: int, amplitude: float, phase: float) -> None:
    own = torch.Generator().manual_seed(0)
    estimate, given = (torch.rand(2, 3, height, width, generator=own, dtype=torch.float64) for _ in range(2))
    out = FrequencyGuidance(amplitude, phase, delta=0.3)(estimate, given, given, SIGMA)
    (a, f, radius), (a_e, f_e, _), (a_g, f_g, _) = spectrum(out), spectrum(estimate), spectrum(given)
    torch.testing.assert_close(a, torch.where(radius <= amplitude, a_g, a_e))
    turned = torch.remainder(f - f_g + math.pi, 2 * math.pi) - math.pi
    apart = torch.remainder(f_e - f_g + math.pi, 2 * math.pi) - math.pi
    wanted = torch.where(radius <= phase, apart.clamp(-0.3, 0.3), apart)
    kept = torch.cos(turned - wanted)  # angles compare up to whole turns
    torch.testing.assert_close(kept, torch.ones_like(kept), atol=1e-9, rtol=0)
    assert bool((apart.abs() > 0.3).any())


def test_frequencies_of_a_like_image_stay_and_batches_do_not_mix() -> None:
    given, estimate = small(3, 13), small(3, 13, seed=4)
    guidance = FrequencyGuidance(reference=Denoised(GaussianPrior(), seed=2))
    both = guidance(estimate, estimate, given, SIGMA)
    for k in range(3):
        one = slice(k, k + 1)
        torch.testing.assert_close(guidance(estimate[one], estimate[one], given[one], SIGMA), both[one])
    torch.testing.assert_close(FrequencyGuidance()(given, given, given, SIGMA), given)


@pytest.mark.parametrize("flat", [False, True])
def test_frequency_gradients(flat: bool) -> None:
    estimate, given = small(1, 7), small(1, 7, seed=2).requires_grad_()
    if flat:  # nothing but a mean: every phase is undefined
        estimate = torch.full_like(estimate, 0.5)
        out = FrequencyGuidance()(estimate.requires_grad_(), given, given, SIGMA)
        assert bool(out.isfinite().all())
        assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(out.square().sum(), (estimate, given)))
        return
    guidance = FrequencyGuidance(amplitude=2, phase=3)
    leaves = (estimate.requires_grad_(), given)
    assert torch.autograd.gradcheck(lambda e, g: guidance(e, e, g, SIGMA), leaves, fast_mode=True)


# Wrong settings


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PixelGuidance(-1), ValueError, "strength: expected a finite number >= 0, got -1"),
        (lambda: PixelGuidance(power=-1), ValueError, "power: expected a finite number >= 0"),
        (lambda: PixelGuidance(reference="raw"), TypeError, "reference: expected None for the input as it is, or a Reference"),
        (lambda: AGDM(lambda x: x), TypeError, "network: expected a torch.nn.Module, got function"),
        (lambda: AGDM(LinearNet(), class_weight=-1), ValueError, "class_weight: expected a finite number >= 0"),
        (lambda: AGDM(LinearNet(), feature_weight=math.nan), ValueError, "feature_weight: expected a finite number"),
        (lambda: AGDM(LinearNet(), label="input"), TypeError, "label: expected a ClassTerm .*write class_weight=0"),
        (lambda: Denoised(LinearNet()), TypeError, "denoiser: expected a Denoiser, got LinearNet"),
        (lambda: Denoised(GaussianPrior(), sigma=-1), ValueError, "sigma: expected a finite level >= 0"),
        (lambda: OnEstimate(FrequencyGuidance()), TypeError, "guidance: expected one by a gradient"),
        (lambda: FrequencyGuidance(delta=4), ValueError, r"delta: expected an angle in \[0, pi\], got 4"),
        (lambda: FrequencyGuidance(amplitude=-1), ValueError, "amplitude: expected a finite number >= 0"),
    ],
)
def test_wrong_settings(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_networks_that_answer_otherwise_are_told() -> None:
    class Two(LinearNet):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, images

    class Flat(LinearNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).sum(1)

    with pytest.raises(TypeError, match="outputs: expected one tensor, got tuple: wrap the model, Adapted"):
        shift(AGDM(Two().double()), small(), small())
    with pytest.raises(ValueError, match=r"network: expected one tensor \[2, F, ...\], got \[2\]"):
        shift(AGDM(Flat().double()), small(), small())
