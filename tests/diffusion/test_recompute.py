"""recomputed: derivatives of any order, wherever the chain is asked for them."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint
from toys_diffusion import Convolved

import robustrestore as rr
from robustrestore import diffusion, guidances
from robustrestore.diffusion.recompute import recomputed
from robustrestore.purifiers import Diffusion

GUIDANCES: dict[str, Callable[[], diffusion.Guidance | None]] = {
    "none": lambda: None,
    "pixels": lambda: guidances.PixelGuidance(20.0),
    "through the denoiser": lambda: guidances.OnEstimate(guidances.PixelGuidance(20.0)),
}


def _images() -> Tensor:
    own = torch.Generator().manual_seed(0)
    return 0.2 + 0.6 * torch.rand(2, 3, 8, 9, generator=own, dtype=torch.float64)


def _derivatives(purifier: Diffusion) -> list[Tensor]:
    """Gradients in the images and the weights, and those of a function of them."""
    leaf = _images().requires_grad_()
    with rr.seeded(3):
        out = purifier(leaf)
    inputs = [leaf, *purifier.denoiser.parameters()]
    first = torch.autograd.grad(out.pow(3).sum(), inputs, create_graph=True)
    return [*first, *torch.autograd.grad(sum((one * one.cos()).sum() for one in first), inputs)]


def test_second_derivatives_where_one_input_is_made_from_another() -> None:
    """f(a, b) = a b^2 with b = sin(a): what reaches b must not be counted among what reaches a."""
    a = torch.tensor([0.3, 1.1], dtype=torch.float64, requires_grad=True)
    out = recomputed(lambda a, b: a * b.square(), [a, a.sin()])
    (first,) = torch.autograd.grad(out.sum(), a, create_graph=True)
    torch.testing.assert_close(first, a.sin().square() + a * (2 * a).sin())
    (second,) = torch.autograd.grad(first.sum(), a, create_graph=True)
    torch.testing.assert_close(second, 2 * (2 * a).sin() + 2 * a * (2 * a).cos())
    (third,) = torch.autograd.grad(second.sum(), a)
    torch.testing.assert_close(third, 6 * (2 * a).cos() - 4 * a * (2 * a).sin())


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("sampler", [diffusion.DDPM(), diffusion.DPMSolverPP()], ids=repr)
def test_derivatives_of_gradients_are_those_of_plain_autograd(
    sampler: diffusion.Sampler, guidance: str, seed: int | None
) -> None:
    denoiser = Convolved().double().requires_grad_()
    plain = Diffusion(denoiser, 0.2, 4, sampler, seed=seed, checkpointed=False, guidance=GUIDANCES[guidance]())
    wanted = _derivatives(plain)
    for checkpointed in (True, 2, 3):
        for one, other in zip(_derivatives(plain.replace(checkpointed=checkpointed)), wanted, strict=True):
            assert (one - other).norm().item() <= 1e-9 * other.norm().item()
    assert float(wanted[-1].norm()) > 0


def test_derivatives_through_tiles() -> None:
    plain = Diffusion(Convolved().double().requires_grad_(), 0.2, 3, tile=8, overlap=2, checkpointed=False)
    for one, other in zip(_derivatives(plain.replace(checkpointed=True)), _derivatives(plain), strict=True):
        assert (one - other).norm().item() <= 1e-9 * other.norm().item()


def test_inside_a_checkpoint_and_under_functional_derivatives() -> None:
    purifier, images = Diffusion(Convolved().double(), 0.2, 4, diffusion.DDPM()), _images()
    leaf = images.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(purifier(leaf).pow(3).sum(), leaf)
    (found,) = torch.autograd.grad(checkpoint(purifier, leaf, use_reentrant=False).pow(3).sum(), leaf)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.func.grad(lambda x: purifier(x).pow(3).sum())(images), wanted)


def test_forward_mode_is_no_constant() -> None:
    images, along = _images(), torch.linspace(-1, 1, 2 * 3 * 8 * 9, dtype=torch.float64).view(2, 3, 8, 9)
    stages = [rr.purifiers.Blur(), rr.purifiers.Jpeg(70), Diffusion(Convolved().double().requires_grad_(False), 0.2, 3)]
    for stage in stages:
        out, tangent = torch.func.jvp(stage, (images,), (along,))
        leaf = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(stage(leaf).sum(), leaf)
        assert torch.equal(out, stage(images))
        assert float(tangent.sum()) == pytest.approx(float((gradient * along).sum()), rel=1e-9)
    small = images[:1, :, :4, :4]
    blur = rr.purifiers.Blur(0.5)
    forward, backward = torch.func.jacfwd(blur)(small), torch.func.jacrev(blur)(small)
    torch.testing.assert_close(forward, backward)
    bent = torch.func.hessian(lambda x: blur(x).pow(3).sum())(small)
    leaf = small.clone().requires_grad_()
    (first,) = torch.autograd.grad(blur(leaf).pow(3).sum(), leaf, create_graph=True)
    (row,) = torch.autograd.grad(first[0, 0, 1, 2], leaf)
    torch.testing.assert_close(bent[0, 0, 1, 2], row)


class _Tied(diffusion.Denoiser):
    """One matrix used by two layers, and a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(3, 3, 1, bias=False).double() for _ in range(2))
        self.second.weight = self.first.weight
        self.gain = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return noisy - self.gain * sigma.view(-1, 1, 1, 1) * self.second(torch.tanh(self.first(noisy)))


@pytest.mark.parametrize("make", [lambda: Convolved().double().requires_grad_(), _Tied], ids=["convolved", "tied"])
def test_gradients_reach_the_weights_through_replicas(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """nn.DataParallel's replicas have no parameters; made here as PyTorch makes them, with copies on the CPU."""
    replicating = sys.modules["torch.nn.parallel.replicate"]
    copies = lambda tensors, devices, detach=False: [[one.clone() for one in tensors] for _ in devices]  # noqa: E731
    monkeypatch.setattr(replicating, "_broadcast_coalesced_reshape", copies)
    images = _images()
    for changes in ({}, {"checkpointed": 2}, {"tile": 8, "overlap": 2}):
        purifier = Diffusion(make(), 0.2, 4, diffusion.DDPM()).replace(**changes)
        weights = list(purifier.denoiser.parameters())
        wanted = torch.autograd.grad(purifier(images).pow(3).sum(), weights)
        pieces = zip(replicating.replicate(purifier, [0, 1]), images.split(1), strict=True)
        outs = [replica(piece) for replica, piece in pieces]
        found = torch.autograd.grad(torch.cat(outs).pow(3).sum(), weights)
        assert all(float(one.abs().max()) > 0 for one in wanted)
        torch.testing.assert_close(found, wanted)


_CHAINS = [rr.purifiers.DensePure, partial(Diffusion, checkpointed=2)]


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("make", _CHAINS, ids=["steps", "nested"])
def test_forward_mode_and_vmap_through_recomputed_chains(make: Any, frozen: bool) -> None:
    stage = make(Convolved().double().requires_grad_(not frozen), 0.2)
    images, along = _images()[..., :6, :6], torch.linspace(-1, 1, 2 * 3 * 6 * 6, dtype=torch.float64).view(2, 3, 6, 6)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((stage(leaf) * along).sum(), leaf)
    _, tangent = torch.func.jvp(stage, (images,), (along,))
    torch.testing.assert_close((tangent * along).sum().detach(), (gradient * along).sum())
    rows = torch.autograd.functional.jacobian(lambda image: (stage(image) * along).sum((1, 2, 3)), images, vectorize=True)
    torch.testing.assert_close(rows.sum(0), gradient)
    with pytest.raises(NotImplementedError, match="torch.func.jacrev.*: set checkpointed=False"):
        torch.func.jacrev(stage)(images)
    each = torch.vmap(torch.func.grad(lambda image, way: (stage(image[None])[0] * way).sum()), randomness="same")(images, along)
    torch.testing.assert_close(each, gradient)
    with forward_ad.dual_level():
        assert torch.equal(forward_ad.unpack_dual(stage(forward_ad.make_dual(images, along))).tangent, tangent)
