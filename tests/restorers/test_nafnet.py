"""NAFNet against another implementation with the same weights; FourierUNet against its formula; both learn from identity."""

from typing import Any

import pytest
import torch
from torch import nn
from toys import photos

import robustrestore as rr
from robustrestore.restorers import FourierUNet, NAFNet, Network
from robustrestore.restorers.fourier_unet import FourierBlock
from robustrestore.restorers.nafnet import LayerNorm2d
from robustrestore.weights import fingerprint


def _shaken(module: nn.Module) -> nn.Module:
    """Every parameter moved, so that nothing stays at zero."""
    own = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=own)
    return module


def test_nafnet_is_that_of_another_package() -> None:
    arch: Any = pytest.importorskip("spandrel.architectures.NAFNet.__arch.NAFNet_arch")
    ours = _shaken(NAFNet(width=4, encoder=[1, 2], middle=1, decoder=[2, 1]))
    theirs = arch.NAFNet(img_channel=3, width=4, middle_blk_num=1, enc_blk_nums=[1, 2], dec_blk_nums=[2, 1])
    theirs.load_state_dict(ours.state_dict())
    images = photos(2, 16, 20)
    torch.testing.assert_close(ours.run(images), theirs(images), atol=1e-4, rtol=1e-4)
    assert (ours.run(images) - images).abs().max() > 0.1


def test_layer_norm_by_hand() -> None:
    norm, features = _shaken(LayerNorm2d(5)), torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    centred = features - features.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(features), scaled * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1))


def test_a_spectrum_of_the_identity_doubles_what_is_bright() -> None:
    block = FourierBlock(1)
    for weight in block.parameters():
        nn.init.zeros_(weight)
    nn.init.eye_(block.mix1.weight[..., 0, 0])
    nn.init.eye_(block.mix2.weight[..., 0, 0])
    features = torch.rand(1, 1, 6, 9, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft2(features)
    kept = torch.complex(spectrum.real.relu(), spectrum.imag.relu())
    torch.testing.assert_close(block(features), features + torch.fft.irfft2(kept, (6, 9)))


def test_every_pixel_sees_every_other() -> None:
    restorer = _shaken(FourierUNet(width=4, middle=1))
    leaf = photos(1, 64, 64).requires_grad_()
    (gradient,) = torch.autograd.grad(restorer.run(leaf)[0, 0, 0, 0], leaf)
    assert bool((gradient[0, 0, -8:, -8:] != 0).any())


@pytest.mark.parametrize("make", [lambda: NAFNet(width=4), lambda: FourierUNet(width=4, middle=1)], ids=["naf", "fourier"])
def test_from_the_identity_they_learn(make: Any) -> None:
    with rr.seeded(0):
        restorer = make()
    with rr.seeded(0):
        assert fingerprint(make()) == fingerprint(restorer)
    images = photos(2, 24, 19)
    assert torch.equal(restorer(images), images)
    first = float((0.7 * images - images).square().mean())
    optimiser = torch.optim.Adam(restorer.parameters(), lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        loss = (restorer(0.7 * images) - images).square().mean()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.2 * first
    assert all(weight.grad is not None for weight in restorer.parameters())


def test_sizes() -> None:
    count = {type(r).__name__: sum(w.numel() for w in r.parameters()) for r in (NAFNet(), FourierUNet())}
    assert 0.4e6 < count["NAFNet"] < 0.5e6
    assert 0.9e6 < count["FourierUNet"] < 1.2e6
    assert NAFNet(encoder=[1], decoder=[1]).multiple == 2
    assert FourierUNet(channels=1, width=4)(photos()[:, :1]).shape == (2, 1, 16, 20)
    assert isinstance(Network(FourierUNet(width=4).body, multiple=8)(photos()), torch.Tensor)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bool(_shaken(FourierUNet(width=4))(photos()).isfinite().all())


def test_wrong_values() -> None:
    with pytest.raises(ValueError, match=r"as many counts >= 0 in encoder and decoder, got \[1, 1\] and \[1\]"):
        NAFNet(encoder=[1, 1], decoder=[1])
    with pytest.raises(ValueError, match="images: expected 3 channels, got 1: convert them first"):
        NAFNet(width=4)(photos()[:, :1])
