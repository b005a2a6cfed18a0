"""TRADES: the divergence has its known value, and its limits are plain training and a model that an attack cannot move."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from toys_training import classifier, colours, equal, state

import robustrestore as rr
from robustrestore.losses import divergence


def test_the_divergence_is_that_of_torch_with_gradients_in_both() -> None:
    own = torch.Generator().manual_seed(0)
    first = torch.randn(4, 5, generator=own, dtype=torch.float64, requires_grad=True)
    second = torch.randn(4, 5, generator=own, dtype=torch.float64, requires_grad=True)
    goal = rr.tasks.Classification().untargeted(torch.zeros(4, dtype=torch.long))
    wanted = F.kl_div(second.log_softmax(1), first.softmax(1), reduction="none").sum(1)
    found = divergence(first, second, goal)
    torch.testing.assert_close(found, wanted)
    for mine, theirs in zip(
        torch.autograd.grad(found.sum(), (first, second)), torch.autograd.grad(wanted.sum(), (first, second)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_ignored_pixels_count_nothing() -> None:
    first, second = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 2, 2)
    target = torch.tensor([[[0, 255], [255, 255]]])
    found = divergence(first, second, rr.tasks.Segmentation().untargeted(target))
    wanted = F.kl_div(second.log_softmax(1), first.softmax(1), reduction="none").sum(1)[:, 0, 0]
    torch.testing.assert_close(found, wanted)


def test_beta_zero_is_plain_training() -> None:
    first, second = classifier(), classifier()
    plan = rr.Plan(steps=4, batch=6)
    attack = rr.attacks.TPGD(rr.Linf(0.03), steps=2)
    task = rr.tasks.Classification()
    rr.fit(rr.recipes.Plain(first, task), colours(), plan, quiet=True)
    rr.fit(rr.recipes.Trades(second, task, attack, beta=0), colours(), plan, quiet=True)
    assert equal(state(first), state(second))


def test_the_inner_attack_raises_the_divergence_and_needs_no_label() -> None:
    network, (images, labels) = classifier().eval(), colours().tensors
    task, attack = rr.tasks.Classification(), rr.attacks.TPGD(rr.Linf(0.05), steps=5)
    rows = []
    for steps in (1, 3, 10):
        goal = rr.losses.Divergence().run(network, images, task.untargeted(labels))
        found = attack.replace(steps=steps)(network, images, goal)
        with torch.no_grad():
            rows.append(float(goal.gain(network(found)).mean()))
        assert float((found - images).abs().max()) <= 0.05 + 1e-6
    assert rows[0] > 0
    assert rows == sorted(rows)
    other = rr.losses.Divergence().run(network, images, task.untargeted((labels + 1) % 3))
    assert torch.equal(attack(network, images, other), attack(network, images, goal))


def _brittle() -> TensorDataset:
    """Channel 0 tells the label always but by 0.02, channel 1 nine times in ten but by 0.2."""
    labels = torch.arange(40) % 2
    sign = 2.0 * labels - 1
    often = torch.where(torch.arange(40) % 20 < 2, -sign, sign)
    levels = torch.stack([0.5 + 0.02 * sign, 0.5 + 0.2 * often, torch.full((40,), 0.5)], dim=1)
    return TensorDataset(levels[:, :, None, None].expand(-1, -1, 4, 4).contiguous(), labels)


class Scaled(nn.Module):
    """A linear classifier of the mean colour, each channel scaled so that its cue is +-1."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)
        nn.init.zeros_(self.line.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.line((images.mean((2, 3)) - 0.5) * torch.tensor([50.0, 5.0, 1.0]))


def test_it_prefers_the_cue_that_an_attack_cannot_turn() -> None:
    task, data, threat = rr.tasks.Classification(), _brittle(), rr.Linf(0.04)
    plan = rr.Plan(steps=60, batch=20, optimiser=rr.AdamW(lr=0.2), average=None)
    plain, steady = Scaled(), Scaled()
    rr.fit(rr.recipes.Plain(plain, task), data, plan, quiet=True)
    rr.fit(rr.recipes.Trades(steady, task, rr.attacks.TPGD(threat, steps=3), beta=6), data, plan, quiet=True)
    attack = rr.attacks.PGD(threat, steps=5)
    clean, under = ([rr.Validation(net, data, task, a)() for net in (plain, steady)] for a in (None, attack))
    assert clean[0]["accuracy"] == 1.0
    assert under[0]["accuracy (attacked)"] < 0.2
    assert clean[1]["accuracy"] == pytest.approx(0.9)
    assert under[1]["accuracy (attacked)"] == pytest.approx(0.9)


@pytest.mark.parametrize(("what", "value"), [("beta", -1.0), ("beta", float("nan"))])
def test_bad_settings(what: str, value: float) -> None:
    with pytest.raises(ValueError, match=what):
        rr.recipes.Trades(nn.Identity(), rr.tasks.Classification(), rr.attacks.FGSM(rr.Linf(0.1)), **{what: value})
