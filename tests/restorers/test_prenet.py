"""PReNet and its variants: the recursion by hand, published files written by the test, the identity untrained."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toys import photos

import robustrestore as rr
from robustrestore.restorers import PRN, PReNet, PReNetR
from robustrestore.restorers.prenet import Progressive

VARIANTS = [PReNet, PRN, PReNetR]
SIZES = {PReNet: 168_963, PRN: 95_107, PReNetR: 94_979}  # of the published files


def _published(cls: type[Progressive], width: int = 32, seed: int = 1) -> dict[str, Tensor]:
    """Tensors named and shaped as in the authors' files, small enough for a stable answer."""
    shapes = {"conv0.0": (6, width), "conv.0": (width, 3)}
    shapes |= {f"res_conv{k}.{layer}": (width, width) for k in range(1, 2 if cls is PReNetR else 6) for layer in (0, 2)}
    shapes |= {f"conv_{gate}.0": (2 * width, width) for gate in ("" if cls is PRN else "ifgo")}
    own = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (inputs, outputs) in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=own) / (3 * inputs**0.5)
        tensors[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=own)
    return tensors


def _by_hand(tensors: dict[str, Tensor], images: Tensor, rounds: int) -> Tensor:
    """The network as the paper draws it, from tensors alone."""

    def conv(name: str, features: Tensor) -> Tensor:
        return F.conv2d(features, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1)

    memory = "conv_i.0.weight" in tensors
    blocks = [f"res_conv{k}" if f"res_conv{k}.0.weight" in tensors else "res_conv1" for k in range(1, 6)]
    hidden = cell = torch.zeros(len(images), tensors["conv0.0.bias"].numel(), *images.shape[2:])
    answer = images
    for _ in range(rounds):
        features = conv("conv0.0", torch.cat([images, answer], 1)).relu()
        if memory:
            both = torch.cat([features, hidden], 1)
            cell = conv("conv_f.0", both).sigmoid() * cell + conv("conv_i.0", both).sigmoid() * conv("conv_g.0", both).tanh()
            hidden = features = conv("conv_o.0", both).sigmoid() * cell.tanh()
        for block in blocks:
            features = (conv(f"{block}.2", conv(f"{block}.0", features).relu()).relu() + features).relu()
        answer = conv("conv.0", features) + images
    return answer


@pytest.mark.parametrize("cls", VARIANTS)
def test_a_published_file_gives_the_answer_by_hand(cls: type[Progressive], tmp_path: Path) -> None:
    tensors = _published(cls)
    assert sum(tensor.numel() for tensor in tensors.values()) == SIZES[cls]
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "net.pth")
    state = torch.random.get_rng_state()
    restorer = cls.from_published(tmp_path / "net.pth")
    assert torch.equal(torch.random.get_rng_state(), state)
    images = photos(2, 9, 12)
    torch.testing.assert_close(restorer.run(images), _by_hand(tensors, images, 6), atol=1e-5, rtol=1e-4)
    assert (restorer.run(images) - images).abs().max() > 0.05
    assert not restorer.training
    assert not any(weight.requires_grad for weight in restorer.parameters())
    once = restorer.replace(recursions=1)
    torch.testing.assert_close(once.run(images), _by_hand(tensors, images, 1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cls", VARIANTS)
@pytest.mark.parametrize(("height", "width"), [(16, 24), (5, 7), (1, 1)])
def test_an_untrained_one_is_the_identity(cls: type[Progressive], height: int, width: int) -> None:
    images = photos(2, height, width)
    assert torch.equal(cls(recursions=2, width=4)(images), images)


def test_files_of_other_variants_and_widths_are_named(tmp_path: Path) -> None:
    for cls in VARIANTS:
        torch.save(_published(cls), tmp_path / f"{cls.__name__}.pth")
    cases = [
        (PReNet, "PRN", "expected weights for PReNet; missing: conv_f.0.bias"),
        (PRN, "PReNet", "expected weights for PRN; unknown: conv_f.0.bias"),
        (PReNet, "PReNetR", "missing: res_conv2.0.bias"),
        (PReNetR, "PReNet", "unknown: res_conv2.0.bias"),
    ]
    for cls, file, message in cases:
        with pytest.raises(ValueError, match=rf"{file}\.pth: .*{message}"):
            cls.from_published(tmp_path / f"{file}.pth")
    torch.save(_published(PRN, width=16), tmp_path / "thin.pth")
    with pytest.raises(ValueError, match=r"thin\.pth: .*of another shape: conv\.0\.weight"):
        PRN.from_published(tmp_path / "thin.pth")
    torch.save({"model": torch.nn.Identity()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"code\.pth: refused"):
        PReNet.from_published(tmp_path / "code.pth")
    with pytest.raises(FileNotFoundError):
        PReNet.from_published(tmp_path / "gone.pth")


@pytest.mark.parametrize("cls", VARIANTS)
def test_it_learns(cls: type[Progressive]) -> None:
    with rr.seeded(0):
        restorer = cls(recursions=2, width=6)
    with rr.seeded(0):
        again = cls(recursions=2, width=6)
    assert all(torch.equal(one, two) for one, two in zip(restorer.parameters(), again.parameters(), strict=True))
    images = photos()
    first = float((0.7 * images - images).square().mean())
    optimiser = torch.optim.Adam(restorer.parameters(), lr=3e-3)
    for step in range(40):
        optimiser.zero_grad()
        loss = (restorer(0.7 * images) - images).square().mean()
        loss.backward()
        if step == 1:  # at first only the last convolution has something to learn
            silent = [n for n, w in restorer.named_parameters() if w.grad is None or not w.grad.any()]
        optimiser.step()
    assert silent == []
    assert float(loss.detach()) < 0.3 * first


def test_wrong_values() -> None:
    with pytest.raises(ValueError, match="recursions: expected a whole number >= 1, got 0"):
        PReNet(recursions=0)
    with pytest.raises(ValueError, match="images: expected 3 channels, got 1"):
        PReNet(width=4)(photos()[:, :1])
