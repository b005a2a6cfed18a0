"""slope: a gradient that can be differentiated once more, exactly, at the memory of one evaluation."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustrestore.diffusion.slope import slope


class _Net(nn.Module):
    """Smooth, with dropout, counting its calls."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.inside, self.out = nn.Linear(5, 7), nn.Linear(7, 5)
        self.drop, self.calls = nn.Dropout(0.3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.out(self.drop(torch.tanh(self.inside(x))))


def _points() -> Tensor:
    return torch.linspace(-1, 1, 15, dtype=torch.float64).view(3, 5)


def _second(net: _Net, checkpointed: bool) -> list[Tensor]:
    """The slope, and the gradients of a function of it in the input and in the weights."""
    leaf = _points().requires_grad_()
    torch.manual_seed(4)
    first = slope(lambda x: (net(x) - x).square().sum(1), leaf, net.parameters(), checkpointed)
    torch.rand(7)  # the generator has moved on when the backward pass comes
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    return [first, *torch.autograd.grad(first.square().sum(), [leaf, *weights])]


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("dropout", [True, False])
def test_recomputed_is_plain_autograd(trained: bool, dropout: bool) -> None:
    net = _Net().double().train(dropout).requires_grad_(trained)
    found = _second(net, True)
    assert net.calls == 2  # one forward, one backward
    plain = _second(net, False)
    assert net.calls == 3
    assert len(found) == (6 if trained else 2)
    assert min(float(one.detach().abs().max()) for one in found) > 1e-3
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-13, rtol=0)


@pytest.mark.parametrize("checkpointed", [True, False])
def test_known_slope_and_second_derivative(checkpointed: bool) -> None:
    own = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 5, generator=own, dtype=torch.float64)
    leaf = _points().requires_grad_()
    found = slope(lambda x: (x @ matrix).square().sum(1), leaf, (), checkpointed)
    torch.testing.assert_close(found.detach(), 2 * _points() @ matrix @ matrix.T)
    weight = torch.randn(3, 5, generator=own, dtype=torch.float64)
    (second,) = torch.autograd.grad((weight * found).sum(), leaf)
    torch.testing.assert_close(second, 2 * weight @ matrix @ matrix.T)


def test_attention_has_a_second_derivative() -> None:
    def loss(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x).square().sum((1, 2))

    found = []
    for checkpointed in (True, False):
        leaf = (torch.arange(48, dtype=torch.float32).view(2, 3, 8) / 48).sin().requires_grad_()
        found.append(torch.autograd.grad(slope(loss, leaf, (), checkpointed).square().sum(), leaf)[0])
    assert float(found[0].abs().max()) > 0.1
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_without_a_wish_for_a_gradient_there_is_no_graph(mode: type) -> None:
    net = _Net().eval().requires_grad_(False)
    with mode():
        found = slope(lambda x: net(x).sum(1), torch.ones(2, 5), net.parameters())
    assert not found.requires_grad
    assert float(found.abs().max()) > 0
    assert net.calls == 1


def test_a_loss_that_does_not_depend_on_the_image_is_flat() -> None:
    leaf = _points().requires_grad_()
    assert not slope(lambda x: torch.ones(len(x)), leaf).any()
    other = torch.ones(3, requires_grad=True)
    assert not slope(lambda x: other, leaf, [other]).any()
    constant = slope(lambda x: 3 * x.sum(1), leaf)  # a slope, but none of its own
    (second,) = torch.autograd.grad(constant.sum(), leaf, allow_unused=True)
    assert second is None or not second.any()


def test_a_third_derivative_is_right_too() -> None:
    leaf = _points().requires_grad_()
    (second,) = torch.autograd.grad(slope(lambda x: x**4, leaf).sum(), leaf, create_graph=True)
    torch.testing.assert_close(second.detach(), 12 * _points() ** 2)
    (third,) = torch.autograd.grad(second.sum(), leaf)
    torch.testing.assert_close(third, 24 * _points())


def test_precision_is_replayed() -> None:
    net = _Net().eval()
    found = []
    for checkpointed in (True, False):
        leaf = _points().float().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first = slope(lambda x: net(x).float().square().sum(1), leaf, net.parameters(), checkpointed)
        found.append(torch.autograd.grad(first.square().sum(), leaf)[0])
    assert torch.equal(*found)
    exact = _points().float().requires_grad_()
    (other,) = torch.autograd.grad(slope(lambda x: net(x).square().sum(1), exact).square().sum(), exact)
    assert not torch.equal(found[0], other)  # or the test could not tell
