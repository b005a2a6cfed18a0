"""What the package carries loads, is small, and is as good as its card says."""

import math
from collections.abc import Callable

import pytest
import torch

import robustrestore as rr
from robustrestore.assets.bundled import FOLDER


def _psnr(image: torch.Tensor, clean: torch.Tensor) -> float:
    return -10 * math.log10(float((image.clamp(0, 1) - clean).square().mean().clamp(min=1e-10)))


def test_weights_are_small_and_have_cards() -> None:
    files = list(FOLDER.glob("*.safetensors"))
    assert {file.stem for file in files} == {"prior", "prior_photographs", "derain", "street"}
    assert sum(file.stat().st_size for file in files) <= 14.5e6
    for file in files:
        card = file.with_suffix(".md").read_text(encoding="utf-8")
        for word in ("**Data**", "**Recipe**", "seed 0", "**Measured**", "**Limits**", "**Licence**"):
            assert word in card, f"{file.stem}: {word}"


def test_photographs_are_images_of_one_size() -> None:
    photographs = rr.assets.photographs()
    assert list(photographs) == ["astronaut", "chelsea", "coffee", "rocket"]
    for image in photographs.values():
        assert image.shape == (1, 3, 192, 256)
        rr.images.check_images(image)


@pytest.mark.parametrize("name", ["open", "photographs"])
@pytest.mark.parametrize(("level", "floor"), [(15, 32.5), (25, 29.8), (50, 26.5)])
def test_prior_denoises_photographs_that_it_never_saw(level: int, floor: float, name: str) -> None:
    prior, sigma = rr.assets.prior(name), level / 255
    assert not any(p.requires_grad for p in prior.parameters())
    found, blurred = [], []
    for image in rr.assets.photographs().values():
        noisy = image + sigma * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            found.append(_psnr(prior(noisy, sigma), image))
        blurred.append(max(_psnr(rr.purifiers.Blur(s).run(noisy), image) for s in (0.6, 0.9, 1.3)))
    assert sum(found) / 4 > floor
    assert sum(found) / 4 > sum(blurred) / 4 + 2


def test_of_the_two_priors_the_one_trained_on_photographs_is_better() -> None:
    clean = torch.cat(list(rr.assets.photographs().values()))
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        better, open_one = (_psnr(rr.assets.prior(name)(noisy, 0.1), clean) for name in ("photographs", "open"))
    assert better > open_one + 0.15


def test_an_unknown_prior_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"expected one of open, photographs, got 'opened'"):
        rr.assets.prior("opened")


def test_prior_keeps_its_promises_at_odd_sizes() -> None:
    rr.checks.check_denoiser(rr.assets.prior())
    rr.checks.check_stage(rr.purifiers.Diffusion.default())


def test_derain_takes_rain_out_and_leaves_dry_images_alone() -> None:
    network, rain = rr.restorers.UNet.derain(), rr.degradations.Rain()
    gains, dry = [], []
    for key, image in enumerate(rr.assets.photographs().values()):
        rainy = rain(image, [key])
        with torch.no_grad():
            gains.append(_psnr(network(rainy), image) - _psnr(rainy, image))
            dry.append(_psnr(network(image), image))
    assert min(gains) > 1
    assert sum(gains) / 4 > 4
    assert min(dry) > 28


def test_street_segmenter_gives_logits_of_any_size() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    segmenter = rr.assets.street_segmenter()
    with torch.no_grad():
        assert segmenter(torch.rand(1, 3, 100, 130)).shape == (1, 11, 100, 130)
    assert not segmenter.training


def test_without_the_extra_the_segmenter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "segmentation_models_pytorch", None)
    with pytest.raises(ImportError, match=r"robustrestore\[models\]"):
        rr.assets.street_segmenter()


@pytest.mark.parametrize("make", [rr.assets.prior, rr.restorers.UNet.derain, rr.assets.street_segmenter])
def test_loading_leaves_the_global_generator_alone(make: Callable[[], object]) -> None:
    if make is rr.assets.street_segmenter:
        pytest.importorskip("segmentation_models_pytorch")
    state = torch.random.get_rng_state()
    make()
    assert torch.equal(torch.random.get_rng_state(), state)
