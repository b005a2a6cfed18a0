"""Restorers: any module as a stage, and a U-Net that starts as the identity."""

import pytest
import torch
from torch import Tensor, nn
from toys import Gain, photos

import robustrestore as rr
from robustrestore.restorers import Network, UNet


class _Strict(nn.Module):
    """Negates around 0.5, and takes only sizes that divide by 8."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[2] % 8 == 0
        assert images.shape[3] % 8 == 0
        return 1 - images


class _Half(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images[..., ::2, ::2]


@pytest.mark.parametrize(("height", "width"), [(8, 16), (17, 23), (1, 1)])
def test_a_network_gets_the_size_that_it_takes(height: int, width: int) -> None:
    images = photos(2, height, width)
    assert torch.equal(Network(_Strict(), multiple=8)(images), 1 - images)


def test_a_network_is_clamped_and_hides_no_gradient() -> None:
    leaf = photos().requires_grad_()
    restorer = Network(Gain(3.0))
    out = restorer(leaf)
    torch.testing.assert_close(out, (3 * leaf).clamp(0, 1))
    assert (out == 1).any()
    (gradient,) = torch.autograd.grad(out.sum(), leaf)
    assert torch.equal(gradient, torch.full_like(leaf, 3.0))


def test_a_network_is_trained_through_its_stage() -> None:
    images, restorer = photos(), Network(Gain(0.5))
    optimiser = torch.optim.SGD(restorer.parameters(), lr=1.0)
    for _ in range(60):
        optimiser.zero_grad()
        (restorer(0.8 * images) - images).square().mean().backward()
        optimiser.step()
    assert float(restorer.network.gain.detach()) == pytest.approx(1 / 0.8, abs=1e-2)


def test_what_is_no_module_or_changes_the_size_is_refused() -> None:
    for wrong in (torch.sigmoid, lambda images: images, "unet", Gain):
        with pytest.raises(TypeError, match=r"network: expected a torch\.nn\.Module, got"):
            Network(wrong)
    with pytest.raises(ValueError, match=r"Network: expected run to keep the shape \[2, 3, 16, 20\], got \[2, 3, 8, 10\]"):
        Network(_Half())(photos())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 23), (3, 50)])
def test_an_untrained_unet_is_the_identity(channels: int, height: int, width: int) -> None:
    images = photos(2, height, width)[:, :channels]
    assert torch.equal(UNet(channels=channels, width=4)(images), images)


def test_a_unet_learns_and_sees_far() -> None:
    with rr.seeded(0):
        restorer = UNet(width=4)
    images = photos()
    first = float((restorer(0.7 * images) - images).square().mean().detach())
    optimiser = torch.optim.Adam(restorer.parameters(), lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        loss = (restorer(0.7 * images) - images).square().mean()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.1 * first
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in restorer.parameters())
    leaf = photos(1, 64, 64).requires_grad_()
    (gradient,) = torch.autograd.grad(restorer(leaf)[0, 0, 32, 32], leaf)
    rows = gradient[0].abs().amax(dim=(0, 2)).nonzero().flatten()
    assert int(rows.max() - rows.min()) > 40  # a pixel of the answer depends on a neighbourhood of dozens of pixels


def test_settings_of_a_unet() -> None:
    assert repr(UNet()) == "UNet(channels=3, width=32)"
    assert UNet(channels=1, width=4).settings()["channels"] == 1
    assert UNet(width=4).body.stem.out_channels == 4
