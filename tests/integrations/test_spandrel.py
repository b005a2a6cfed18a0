"""spandrel checkpoints as restorers: what its own call gives, any size and batch, and what is refused."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from toys import photos

import robustrestore as rr
from robustrestore import checks
from robustrestore.integrations.spandrel import load_restorer

spandrel = pytest.importorskip("spandrel")


def _shrunk(network: nn.Module) -> nn.Module:
    """Random weights, small enough that outputs stay in [0, 1] for the most part."""
    own = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.data = 0.05 * torch.randn(weight.shape, generator=own)
    return network.eval()


def _dncnn(inputs: int = 3, outputs: int = 3) -> nn.Module:
    from spandrel.architectures.DnCNN import DnCNN

    mode = "DnCNN" if inputs == outputs else "FDnCNN"
    return _shrunk(DnCNN(in_nc=inputs, out_nc=outputs, nc=8, nb=8, act_mode="R", mode=mode))


def _nafnet() -> nn.Module:
    from spandrel.architectures.NAFNet import NAFNet

    return _shrunk(NAFNet(img_channel=3, width=4, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]))


def _compact(scale: int) -> nn.Module:
    from spandrel.architectures.Compact import Compact

    return _shrunk(Compact(num_feat=4, num_conv=1, upscale=scale))


def _swinir() -> nn.Module:
    from spandrel.architectures.SwinIR import SwinIR

    return _shrunk(SwinIR(depths=[1], embed_dim=8, num_heads=[2], window_size=8, upsampler="", img_range=1.0))


def _saved(network: nn.Module, folder: Path) -> Path:
    save_file(network.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def _by_spandrel(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    described = spandrel.ModelLoader().load_from_state_dict(dict(network.state_dict()))
    return torch.cat([described(image[None]) for image in images]).clone()


@pytest.mark.parametrize("make", [_dncnn, _nafnet, lambda: _compact(1), _swinir], ids=["dncnn", "nafnet", "compact", "swinir"])
def test_a_checkpoint_is_a_restorer(tmp_path: Path, make) -> None:
    network, images = make(), photos(2, 16, 24)
    restorer = load_restorer(_saved(network, tmp_path))
    assert isinstance(restorer, rr.Restorer)
    assert not any(part.training for part in restorer.modules())
    assert not any(weight.requires_grad for weight in restorer.parameters())
    with torch.no_grad():
        torch.testing.assert_close(restorer(images), network(images).clamp(0, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(restorer(images), _by_spandrel(network, images), atol=1e-6, rtol=0)
    assert (restorer(images) - images).abs().max() > 1e-3
    checks.check_stage(restorer)


def test_a_plain_checkpoint_file_and_nested_names(tmp_path: Path) -> None:
    network, images = _dncnn(), photos()
    expected = load_restorer(_saved(network, tmp_path))(images)
    for nested in (
        {"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}},
        {"params": network.state_dict()},
    ):
        torch.save(nested, tmp_path / "weights.pth")
        assert torch.equal(load_restorer(tmp_path / "weights.pth")(images), expected)
    averaged = {"params": _nafnet().state_dict(), "params_ema": network.state_dict()}  # BasicSR: the average is the result
    torch.save(averaged, tmp_path / "weights.pth")
    assert torch.equal(load_restorer(tmp_path / "weights.pth")(images), expected)
    torch.save({"params_ema": network.state_dict()}, tmp_path / "weights.pth")
    assert torch.equal(load_restorer(tmp_path / "weights.pth")(images), expected)


def test_networks_with_a_call_of_their_own_are_called_that_way(tmp_path: Path) -> None:
    network, images = _dncnn(4, 3), photos(3, 13, 18)  # takes a noise map as its fourth channel, which spandrel makes
    restorer = load_restorer(_saved(network, tmp_path))
    level = torch.full((3, 1, 13, 18), 15 / 255)
    with torch.no_grad():
        expected = network(torch.cat([images, level], dim=1)).clamp(0, 1)
    torch.testing.assert_close(restorer(images), expected, atol=1e-6, rtol=0)
    checks.check_stage(restorer)


def test_images_below_the_smallest_size_are_padded(tmp_path: Path) -> None:
    restorer = load_restorer(_saved(_swinir(), tmp_path))  # at least 16 pixels
    images = photos(2, 7, 5)
    padded = nn.functional.pad(images, (0, 11, 0, 9), mode="replicate")
    torch.testing.assert_close(restorer(images), restorer(padded)[..., :7, :5], atol=1e-6, rtol=0)


def test_gradients_reach_the_image(tmp_path: Path) -> None:
    restorer, leaf = load_restorer(_saved(_dncnn(), tmp_path)), photos().requires_grad_()
    (gradient,) = torch.autograd.grad(restorer(leaf).square().sum(), leaf)
    assert gradient.abs().max() > 0


def test_what_is_no_restorer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights\.safetensors: expected a network that keeps the image size, got SR"):
        load_restorer(_saved(_compact(2), tmp_path))
    with pytest.raises(ValueError, match=r"weights\.safetensors: expected an architecture that spandrel knows"):
        load_restorer(_saved(nn.Conv2d(3, 3, 3), tmp_path))
    with pytest.raises(FileNotFoundError, match="expected a weights file"):
        load_restorer(tmp_path / "nothing.safetensors")


def test_pickled_modules_are_refused(tmp_path: Path) -> None:
    torch.save(_Touch(tmp_path / "touched"), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth: refused, since it is no checkpoint of plain tensors"):
        load_restorer(tmp_path / "model.pth")
    assert not (tmp_path / "touched").exists()
    torch.save(_Touch(tmp_path / "touched"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="expected a safetensors file"):
        load_restorer(tmp_path / "model.safetensors")
    assert not (tmp_path / "touched").exists()


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_without_spandrel_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ImportError, match=r"load_restorer needs spandrel: pip install 'robustrestore\[restorers\]'"):
        load_restorer(tmp_path / "weights.safetensors")
