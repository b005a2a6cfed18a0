"""Purification: what it repeats, what it is independent of, tiling, and the exact gradient through the chain."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from toys import photos
from toys_diffusion import Convolved, GaussianPrior, Oracle, kept

import robustrestore as rr
from robustrestore import diffusion
from robustrestore.guidances import OnEstimate, PixelGuidance
from robustrestore.purifiers import Diffusion

SAMPLERS = [diffusion.DDIM(), diffusion.DDPM()]


def _gradient(purifier: Diffusion, images: Tensor, weight: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    with rr.seeded(3):
        (gradient,) = torch.autograd.grad((weight * purifier(leaf)).sum(), leaf)
    return gradient


def test_level_zero_is_the_identity_without_a_call() -> None:
    denoiser, images = Convolved(), photos()
    for seed in (0, None):
        state = torch.random.get_rng_state()
        assert torch.equal(Diffusion(denoiser, sigma=0.0, steps=5, seed=seed)(images), images)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert denoiser.calls == 0


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_a_seed_makes_it_a_fixed_function(sampler: diffusion.Sampler) -> None:
    purifier, images = Diffusion(GaussianPrior(), steps=3, sampler=sampler, seed=5), photos(4)
    first = purifier(images)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    assert torch.equal(purifier(images), first)
    assert torch.equal(torch.random.get_rng_state(), state)
    for k in range(4):
        assert torch.equal(purifier(images[k : k + 1]), first[k : k + 1])
    assert torch.equal(purifier(images[[2, 0]]), first[[2, 0]])
    assert torch.equal(purifier(torch.cat([torch.rand(3, 3, 16, 20), images[1:2]]))[3:], first[1:2])
    assert (purifier.replace(seed=6)(images) - first).abs().max() > 0.01


def test_a_network_over_neighbourhoods_is_independent_of_its_batch_too() -> None:
    purifier, images = Diffusion(Convolved(), steps=3, sampler=diffusion.DDPM()), photos(4)
    with torch.no_grad():
        torch.testing.assert_close(purifier(images)[2:3], purifier(images[2:3]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_without_a_seed_it_varies_and_follows_seeded(sampler: diffusion.Sampler) -> None:
    purifier, images = Diffusion(GaussianPrior(), steps=2, sampler=sampler, seed=None), photos(1).expand(2, -1, -1, -1)
    first = purifier(images)
    assert (purifier(images) - first).abs().max() > 0.01
    assert (first[0] - first[1]).abs().max() > 0.01  # images of a batch differ, too
    with rr.seeded(8):
        told = purifier(images)
    with rr.seeded(8):
        assert torch.equal(purifier(images), told)
    with rr.seeded(9):
        assert (purifier(images) - told).abs().max() > 0.01


def test_noise_has_the_level_and_is_new_in_each_step() -> None:
    images = photos(1, 64, 64)
    for seed in (0, None):
        oracle = Oracle(images)
        with rr.seeded(1):
            Diffusion(oracle, sigma=0.2, steps=3, sampler=diffusion.DDPM(), seed=seed)(images)
        drawn = torch.stack([(shown - images).flatten() for shown in oracle.shown])
        torch.testing.assert_close(drawn.std(1), torch.tensor(oracle.told), atol=0, rtol=0.03)
        # DDPM keeps then^2 / now^2 of the old noise: correlation then / now, 2/3 and 1/2, the product for both
        wanted = torch.tensor([[1, 2 / 3, 1 / 3], [2 / 3, 1, 1 / 2], [1 / 3, 1 / 2, 1]])
        torch.testing.assert_close(torch.corrcoef(drawn), wanted, atol=0.04, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(50, 65), (16, 70), (32, 32)])
@pytest.mark.parametrize("overlap", [0, 6])
def test_tiling_leaves_what_a_pixelwise_denoiser_makes(height: int, width: int, overlap: int) -> None:
    images, denoiser = photos(2, height, width), GaussianPrior()
    whole = Diffusion(denoiser, steps=3, sampler=diffusion.DDPM())
    calls = denoiser.calls
    expected = whole(images)
    assert denoiser.calls - calls == 3
    tiles = whole.replace(tile=16, overlap=overlap)
    torch.testing.assert_close(tiles(images), expected, atol=1e-6, rtol=0)
    assert denoiser.calls - calls > 6
    calls = denoiser.calls
    whole.replace(tile=70, overlap=overlap)(images)
    assert denoiser.calls - calls == 3  # fits into one tile


def test_tiles_stay_within_the_size_and_gradients_pass() -> None:
    images, oracle = photos(1, 50, 65).double(), Oracle(torch.tensor(0.5))
    Diffusion(oracle, steps=1, tile=32, overlap=8)(images)
    assert {tuple(shown.shape[2:]) for shown in oracle.shown} == {(32, 32)}
    assert len(oracle.shown) == 2 * 3
    weight = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tiled = Diffusion(GaussianPrior(), steps=3, tile=32, overlap=8)
    torch.testing.assert_close(_gradient(tiled, images, weight), _gradient(tiled.replace(tile=None), images, weight))


@pytest.mark.parametrize("seed", [4, None])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_checkpointed_gradients_are_those_of_plain_autograd(sampler: diffusion.Sampler, seed: int | None) -> None:
    images, denoiser = photos().double(), Convolved().double()
    weight = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    purifier = Diffusion(denoiser, sigma=0.2, steps=10, sampler=sampler, seed=seed)
    found = _gradient(purifier, images, weight)
    plain = _gradient(purifier.replace(checkpointed=False), images, weight)
    assert float((found - plain).norm() / plain.norm()) < 1e-14
    leaf = images.clone().requires_grad_()  # and once more by hand, without a stage
    with rr.seeded(3):
        own = None if seed is None else torch.Generator().manual_seed(seed)

        def draw() -> Tensor:
            if own is None:
                return torch.randn_like(images)
            return torch.randn(1, 3, 16, 20, generator=own).double()

        levels = sampler.levels(0.2, 10)
        noisy = leaf + 0.2 * draw()
        for now, then in pairwise(levels):
            spread = sampler.spread(now, then)
            clean = denoiser(noisy, now)
            noisy = clean + (then**2 - spread**2) ** 0.5 / now * (noisy - clean)
            noisy = noisy + spread * draw() if spread > 0 else noisy
    (wanted,) = torch.autograd.grad((weight * noisy).sum(), leaf)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-12


def test_other_noise_gives_another_gradient() -> None:  # or the test above could not tell replayed noise from fresh
    images, weight = photos().double(), torch.ones(2, 3, 16, 20, dtype=torch.float64)
    purifier = Diffusion(Convolved().double(), sigma=0.2, steps=10, sampler=diffusion.DDPM())
    first, second = (_gradient(purifier.replace(seed=seed), images, weight) for seed in (0, 1))
    assert float((first - second).norm() / first.norm()) > 1e-2


@pytest.mark.parametrize("sampler", [*SAMPLERS, diffusion.OneStep()], ids=repr)
def test_gradcheck(sampler: diffusion.Sampler) -> None:
    purifier = Diffusion(Convolved(1).double(), sigma=0.05, steps=3, sampler=sampler)
    leaf = (
        0.3 + 0.4 * torch.rand(2, 1, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).requires_grad_()
    assert ((out := purifier(leaf)) > 0).all()
    assert (out < 1).all()  # where nothing is clamped, the straight-through clamp is the true derivative
    assert torch.autograd.gradcheck(purifier, leaf)


def test_a_backward_pass_costs_exactly_one_more_call_a_step() -> None:
    for checkpointed, calls in ((True, 14), (False, 7)):
        denoiser = Convolved()
        purifier = Diffusion(denoiser, steps=7, sampler=diffusion.DDPM(), checkpointed=checkpointed)
        _gradient(purifier, photos(), torch.ones(2, 3, 16, 20))
        assert denoiser.calls == calls
    denoiser.calls = 0
    with torch.no_grad():
        purifier.replace(checkpointed=True)(photos().requires_grad_())
    assert denoiser.calls == 7


@pytest.mark.parametrize("leaf", ["images", "weights"])
def test_checkpointing_keeps_one_image_a_step(leaf: str) -> None:
    denoiser, images = Convolved().requires_grad_(leaf == "weights"), photos().requires_grad_(leaf == "images")
    purifier = Diffusion(denoiser, steps=8)
    assert kept(lambda: purifier(images)) <= 10 * images.numel()  # what enters each step, the input, and the weights
    assert kept(lambda: purifier.replace(checkpointed=False)(images)) > 20 * images.numel()


@pytest.mark.parametrize("seed", [4, None])
@pytest.mark.parametrize("guidance", [None, PixelGuidance(20.0)], ids=repr)
@pytest.mark.parametrize("sampler", [*SAMPLERS, diffusion.DPMSolverPP()], ids=repr)
def test_nested_gradients_are_those_of_plain_autograd(
    sampler: diffusion.Sampler, guidance: diffusion.Guidance | None, seed: int | None
) -> None:
    images, denoiser = photos().double(), Convolved().double().requires_grad_()
    weight = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = Diffusion(denoiser, sigma=0.2, steps=7, sampler=sampler, seed=seed, checkpointed=False, guidance=guidance)
    wanted, found = [], []
    for purifier, kept_here in ((plain, wanted), (plain.replace(checkpointed=3), found)):
        leaf = images.clone().requires_grad_()
        with rr.seeded(3):
            out = purifier(leaf)
            kept_here += [out.detach(), *torch.autograd.grad((weight * out).sum(), [leaf, *purifier.denoiser.parameters()])]
            kept_here.append(torch.rand(2))  # what is drawn afterwards is the same too
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


def test_nested_steps_keep_an_image_or_two_a_segment_for_one_more_call_a_step() -> None:
    denoiser, images = Convolved(), photos()
    purifier = Diffusion(denoiser, steps=121, sampler=diffusion.DDPM())
    for checkpointed, calls, low, high in ((1, 242, 122, 125), (True, 363, 11, 28), (40, 362, 4, 12), (121, 242, 121, 125)):
        one = purifier.replace(checkpointed=checkpointed)
        denoiser.calls = 0
        _gradient(one, images, torch.ones(2, 3, 16, 20))
        assert denoiser.calls == calls
        leaf = images.clone().requires_grad_()
        assert low * images.numel() <= kept(lambda: one(leaf)) <= high * images.numel()  # noqa: B023
    few = purifier.replace(steps=100)
    denoiser.calls = 0
    _gradient(few, images, torch.ones(2, 3, 16, 20))
    assert denoiser.calls == 200


@pytest.mark.parametrize("checkpointed", [-1, 2.5, "yes", None])
def test_checkpointed_is_a_truth_or_a_number_of_steps(checkpointed: object) -> None:
    with pytest.raises(ValueError, match="checkpointed: expected True, False or a number of steps"):
        Diffusion(Convolved(), checkpointed=checkpointed)


def test_tiles_of_the_bundled_prior_are_the_whole_image_where_no_edge_is_in_sight() -> None:
    whole, images = Diffusion.default(), photos(1, 96, 448)
    with torch.no_grad():
        apart = (whole.replace(tile=256, overlap=32)(images) - whole(images)).abs().amax(dim=(0, 1, 2))
    assert apart[:144].max() < 1e-6  # columns at least 112 pixels from the right edge of the first tile
    assert apart[304:].max() < 1e-6
    assert 1e-6 < apart[192:256].max() < 0.03  # where the two are blended


@pytest.mark.parametrize(("guidance", "calls"), [(None, 2), (PixelGuidance(20.0), 3), (OnEstimate(PixelGuidance(20.0)), 6)])
def test_tiles_are_recomputed_each_for_itself(guidance: diffusion.Guidance | None, calls: int) -> None:
    images, denoiser = photos(1, 40, 52).double(), Convolved().double()
    weight = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    purifier = Diffusion(denoiser, steps=2, sampler=diffusion.DDPM(), tile=24, overlap=8, guidance=guidance, tiles_at_once=2)
    plain = _gradient(purifier.replace(checkpointed=False), images, weight)
    denoiser.calls = 0
    found = _gradient(purifier, images, weight)
    assert denoiser.calls == calls * 2 * 3  # steps, batches of the 2 x 3 tiles
    assert float((found - plain).norm() / plain.norm()) < 1e-12
    leaf = images.requires_grad_()
    assert kept(lambda: purifier(leaf)) < 5 * leaf.numel()
    assert kept(lambda: purifier.replace(checkpointed=False)(leaf)) > 10 * leaf.numel()
    assert kept(lambda: purifier.replace(steps=1, guidance=None)(leaf)) < 2.5 * leaf.numel()


def test_gradients_reach_the_weights_through_checkpoints() -> None:
    found = []
    for checkpointed in (True, False):
        denoiser = Convolved().double()
        Diffusion(denoiser, steps=4, checkpointed=checkpointed)(photos().double()).square().sum().backward()
        found.append([p.grad for p in denoiser.parameters()])
    assert float(found[0][0].abs().max()) > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_follows_the_images(dtype: torch.dtype) -> None:
    purifier = Diffusion(GaussianPrior(), steps=3, sampler=diffusion.DDPM())
    out = purifier(photos().to(dtype))
    assert out.dtype == dtype
    tolerance = 0.02 if dtype.itemsize == 2 else 1e-6
    torch.testing.assert_close(out.double(), purifier(photos()).double(), atol=tolerance, rtol=0)


def test_it_takes_an_attack_out_of_a_gaussian_image() -> None:
    own = torch.Generator().manual_seed(0)
    clean = (0.5 + 0.02 * torch.randn(1, 3, 64, 64, generator=own)).clamp(0, 1)
    attacked = clean + 0.1 * torch.randn(clean.shape, generator=own).sign()
    purified = Diffusion(GaussianPrior(0.5, 0.02), sigma=0.1, steps=4)(attacked)
    assert float((purified - clean).norm()) < 0.3 * float((attacked - clean).norm())


def test_nothing_is_printed_or_written(capfd: pytest.CaptureFixture[str], tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Diffusion(Convolved(), steps=2)(photos())
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": -0.1}, "sigma: expected a finite level >= 0"),
        ({"sigma": float("nan")}, "sigma: expected a finite level >= 0"),
        ({"steps": 0}, "steps: expected a whole number >= 1, got 0"),
        ({"tile": 32, "overlap": 32}, "overlap: expected 0 <= overlap < tile, got overlap 32 and tile 32"),
        ({"tile": 8}, "overlap: expected 0 <= overlap < tile, got overlap 32 and tile 8"),
        ({"tile": 32, "overlap": -1}, "overlap: expected a whole number >= 0, got -1"),
    ],
    ids=str,
)
def test_wrong_values(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Diffusion(GaussianPrior(), **settings)


def test_wrong_kinds_of_parts() -> None:
    with pytest.raises(TypeError, match="denoiser: expected a Denoiser, got Conv2d: wrap it in diffusion.NoiseConditioned"):
        Diffusion(torch.nn.Conv2d(3, 3, 1))
    with pytest.raises(TypeError, match=r"sampler: expected a Sampler such as diffusion.DDIM\(\), got type"):
        Diffusion(GaussianPrior(), sampler=diffusion.DDPM)
