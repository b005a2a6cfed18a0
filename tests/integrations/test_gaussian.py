"""Plain Gaussian denoisers: their conventions, their published files, and what is refused."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from toys import photos

from robustrestore.diffusion import NoiseConditioned, OneStep
from robustrestore.integrations.gaussian import Blind, SigmaMap, load_dncnn, load_ffdnet
from robustrestore.purifiers import Diffusion

WEIGHTS = Path(os.environ.get("ROBUSTRESTORE_DATA", "/nowhere")) / "weights"


def _tensors(*channels: int, prefix: str = "model.", norm: bool = False) -> dict[str, Tensor]:
    own, found = torch.Generator().manual_seed(2), {}
    for k, (before, after) in enumerate(pairwise(channels)):
        place = 0 if k == 0 else 3 * k - 1 if norm else 2 * k  # conv, relu, then conv, norm, relu
        found[f"{prefix}{place}.weight"] = torch.randn(after, before, 3, 3, generator=own) / (3 * before**0.5)
        if norm and 0 < k < len(channels) - 2:
            statistics = {"weight": 1.2, "bias": 0.1, "running_mean": 0.3, "running_var": 0.7}
            found |= {f"{prefix}{place + 1}.{leaf}": torch.full((after,), value) for leaf, value in statistics.items()}
            found[f"{prefix}{place + 1}.num_batches_tracked"] = torch.tensor(5)
        else:
            found[f"{prefix}{place}.bias"] = 0.1 * torch.randn(after, generator=own)
    return found


def test_a_blind_network_takes_its_noise_off_except_at_level_zero() -> None:
    images = photos()
    blind = Blind(nn.Conv2d(3, 3, 3, padding=1))
    noise = blind.network(images)
    torch.testing.assert_close(blind(images, 0.1), images - noise)
    torch.testing.assert_close(blind(images, 0.3), images - noise)
    torch.testing.assert_close(blind(images, torch.tensor([0.0, 0.1])), torch.cat([images[:1], (images - noise)[1:]]))


class _Map(nn.Module):
    def forward(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        self.told = noisy[:, 3:] if sigma is None else sigma
        return noisy[:, :3] * (1 - self.told)


def test_a_map_of_the_level_reaches_the_network() -> None:
    images, levels = photos(), torch.tensor([0.1, 0.2])
    for place, shape in (("argument", (2, 1, 1, 1)), ("channel", (2, 1, 16, 20))):
        denoiser = SigmaMap(_Map(), place)
        torch.testing.assert_close(denoiser(images, levels), images * (1 - levels.view(2, 1, 1, 1)))
        assert denoiser.network.told.shape == shape
        assert torch.equal(denoiser.network.told.amax(dim=(1, 2, 3)), levels)
    with pytest.raises(ValueError, match="place: expected argument or channel, got 'film'"):
        SigmaMap(_Map(), "film")


class _Few(nn.Module):
    def forward(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        return noisy[:, :1]


def test_answers_that_are_no_images_are_refused() -> None:
    for make in (Blind, SigmaMap, lambda network: SigmaMap(network, "channel")):
        with pytest.raises(ValueError, match=r"_Few: expected an estimate of shape \[2, 3, 16, 20\], got \[2, 1, 16, 20\]"):
            make(_Few())(photos(), 0.1)
        with pytest.raises(TypeError, match="_Listed: expected a tensor of images, got list"):
            make(_Listed())(photos(), 0.1)
    for make in (Blind, SigmaMap):
        with pytest.raises(ValueError, match="multiple: expected a whole number >= 1, got 0"):
            make(_Few(), multiple=0)


class _Listed(nn.Module):
    def forward(self, noisy: Tensor, sigma: Tensor | None = None) -> list[Tensor]:
        return [noisy]


class _DeepinvLike(nn.Module):
    """The convention of deepinv: called as (y, sigma) on [0, 1] images; sigma a number or one for each image."""

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        level = torch.as_tensor(sigma).view(-1, 1, 1, 1)
        return x - level * (x - x.mean(dim=(2, 3), keepdim=True))


def test_deepinvs_convention_needs_no_other_adapter() -> None:
    images = photos()
    denoiser = NoiseConditioned(_DeepinvLike())
    torch.testing.assert_close(denoiser(images, torch.tensor([0.1, 0.2]))[1:], _DeepinvLike()(images[1:], 0.2))
    purified = Diffusion(denoiser, sigma=0.1, steps=1, sampler=OneStep())(images)
    assert purified.shape == images.shape


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("prefix", ["model.", "module.dncnn.", ""])
@pytest.mark.parametrize("norm", [False, True])
def test_a_dncnn_file_becomes_a_denoiser(tmp_path: Path, suffix: str, prefix: str, norm: bool) -> None:
    tensors, file = _tensors(3, 8, 8, 3, prefix=prefix, norm=norm), tmp_path / f"net.{suffix}"
    save_file(tensors, file) if suffix == "safetensors" else torch.save(tensors, file)
    h = noisy = photos(1, 9, 11)
    for k, place in enumerate((0, 2, 5) if norm else (0, 2, 4)):
        h = F.conv2d(h, tensors[f"{prefix}{place}.weight"], tensors.get(f"{prefix}{place}.bias"), padding=1)
        h = 1.2 * (h - 0.3) / (0.7 + 1e-5) ** 0.5 + 0.1 if norm and k == 1 else h
        h = h if k == 2 else h.relu()
    denoiser = load_dncnn(file)
    torch.testing.assert_close(denoiser(noisy, 0.1), noisy - h)
    assert not any(weight.requires_grad for weight in denoiser.parameters())
    assert not any(part.training for part in denoiser.modules())


@pytest.mark.parametrize("colours", [1, 3])
def test_an_ffdnet_file_becomes_a_denoiser_of_any_size(tmp_path: Path, colours: int) -> None:
    tensors, file = _tensors(4 * colours + 1, 8, 4 * colours), tmp_path / "net.safetensors"
    save_file(tensors, file)
    noisy, denoiser = photos(2, 9, 14)[:, :colours], load_ffdnet(file)
    padded = F.pad(noisy, (0, 0, 0, 1), mode="replicate")
    pieces = [padded[:, c : c + 1, i::2, j::2] for c in range(colours) for i in (0, 1) for j in (0, 1)]
    x = torch.cat([*pieces, torch.tensor([0.1, 0.2]).view(2, 1, 1, 1).expand(2, 1, 5, 7)], dim=1)
    h = F.conv2d(x, tensors["model.0.weight"], tensors["model.0.bias"], padding=1).relu()
    h = F.conv2d(h, tensors["model.2.weight"], tensors["model.2.bias"], padding=1)
    wanted = torch.zeros_like(padded)
    for k in range(4 * colours):
        wanted[:, k // 4, k % 4 // 2 :: 2, k % 2 :: 2] = h[:, k]
    torch.testing.assert_close(denoiser(noisy, torch.tensor([0.1, 0.2])), wanted[:, :, :9])


def test_wrong_files_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    for load, tensors, said in (
        (load_dncnn, _tensors(13, 8, 12), r"expected a DnCNN with as many channels out as in, got 13 and 12"),
        (load_ffdnet, _tensors(3, 8, 3), r"expected an FFDNet, .* got 3 and 3"),
        (load_dncnn, {"head.weight": torch.zeros(3, 3, 3, 3)}, "expected numbered layers in a row .*got head.weight"),
        (load_dncnn, _tensors(3, 8, 3) | _tensors(3, 8, 3, prefix="ema."), "expected numbered layers in a row .*got ema.0"),
        (load_dncnn, {"model.0.weight": torch.zeros(3, 3, 5, 5)}, r"0\.weight: .*\[\*, \*, 3, 3\].*got \[3, 3, 5, 5\]"),
        (load_dncnn, _tensors(3, 8, 3) | {"model.2.weight": torch.zeros(3, 9, 3, 3)}, r"2\.weight: .*\[\*, 8, 3, 3\]"),
        (load_dncnn, _tensors(3, 8, 3) | {"model.2.bias": torch.zeros(4)}, r"2\.weight: .*size mismatch for bias"),
        (load_dncnn, _tensors(3, 8, 3) | {"model.2.gain": torch.zeros(4)}, r"2\.weight: .*Unexpected key.*gain"),
        (load_dncnn, _tensors(3, 8, 8, norm=True), "expected a DnCNN with as many channels out as in, got 3 and 8"),
        (load_dncnn, {}, "expected a convolution last"),
    ):
        torch.save(tensors, file)
        with pytest.raises(ValueError, match=rf"net\.pth: {said}"):
            load(file)
    torch.save(nn.Conv2d(3, 3, 3), file)
    with pytest.raises(ValueError, match=r"net\.pth: refused, since it is no checkpoint of plain tensors"):
        load_dncnn(file)


def _without(tensors: dict[str, Tensor], *starts: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(starts)}


def _moved(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


DEEP, NORMED = _tensors(3, 8, 8, 8, 3), _tensors(3, 8, 8, 8, 3, norm=True)
HOLES = {
    "first": (_without(DEEP, "model.0."), r"expected layer model\.0 next, got model\.2: a layer is missing"),
    "inner": (_without(DEEP, "model.2."), r"expected layer model\.2 \(or a batch norm, model\.1\) next, got model\.4: "),
    "last": (_without(DEEP, "model.6."), "expected a DnCNN with as many channels out as in, got 3 and 8"),
    "bias": (_without(DEEP, "model.2.bias"), r"expected a bias in all layers .*missing model\.2\.bias"),
    "weight": (_without(DEEP, "model.2.weight"), r"2\.weight: expected a convolution \[8, 8, 3, 3\] .*got none, but bias"),
    "norm": (_without(NORMED, "model.3."), r"expected layer model\.4 \(or a batch norm, model\.3\) next, got model\.5: "),
    "mean": (_without(NORMED, "model.3.running_mean"), r'3\.weight: .*Missing key.*"running_mean"'),
    "two norms": (
        NORMED | _moved(_without(NORMED, "model.0.", "model.2.", "model.5.", "model.6.", "model.8."), "3", "4"),
        r"expected layer model\.5 next, got model\.4: ",
    ),
    "gap": (_moved(DEEP, "model.6", "model.9"), r"expected layer model\.6 .*next, got model\.9: "),
    "no gap": (_moved(DEEP, "model.6", "model.5"), r"expected layer model\.6 .*next, got model\.5: .*one too many"),
    "one more": (DEEP | {"model.8.weight": torch.zeros(3, 3, 3, 3)}, r"6\.weight: .*\[8, 8, 3, 3\] .*got \[3, 8, 3, 3\]"),
    "twice": (
        DEEP | {"model.02.weight": torch.zeros(8, 8, 3, 3)},
        r"expected numbered layers in a row .*got model\.02\.weight",
    ),
}


@pytest.mark.parametrize("name", HOLES)
def test_layers_that_are_missing_or_too_many_are_named(tmp_path: Path, name: str) -> None:
    tensors, said = HOLES[name]
    torch.save(tensors, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=rf"net\.pth: {said}"):
        load_dncnn(tmp_path / "net.pth")


def test_a_hole_in_an_ffdnet(tmp_path: Path) -> None:
    save_file(_without(_tensors(13, 8, 8, 12), "model.2."), tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"expected layer model\.2 .*next, got model\.4: "):
        load_ffdnet(tmp_path / "net.safetensors")


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="published weights are not here")
@pytest.mark.parametrize(
    ("load", "name", "gain"),
    [(load_ffdnet, "ffdnet_color", 9), (load_dncnn, "dncnn_color_blind", 9), (load_ffdnet, "ffdnet_gray", 8)],
)
def test_published_weights_denoise(load: object, name: str, gain: float) -> None:
    from PIL import Image

    grey = name.endswith("gray")
    picture = Image.open(sorted((WEIGHTS.parent / "cbsd68_12").glob("*.png"))[0]).convert("L" if grey else "RGB")
    own = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(picture.height, picture.width, -1)
    clean = own.permute(2, 0, 1)[None].float()[..., :161, :161] / 255
    noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = load(WEIGHTS / f"{name}.safetensors")(noisy, 25 / 255)
    before, after = ((x - clean).square().mean().log10() * -10 for x in (noisy, found))
    assert after > before + gain
