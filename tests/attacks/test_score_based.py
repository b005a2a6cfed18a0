"""Square, SimBA, NES and Transfer on models whose best attack is known."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from toys import Linear2, Moody, photos

import robustrestore as rr
from robustrestore.attacks.nes import estimate
from robustrestore.attacks.square import _Bumps, _Flat, _hills, _Window
from robustrestore.black_box import Draws, Oracle

EPS = 8 / 255


@pytest.fixture(autouse=True)
def _always_the_same() -> Iterator[None]:
    with rr.seeded(0):
        yield


class Score(nn.Module):
    """An image's inner product with a weight, as a restorer's one-pixel answer: gain is what the objective makes of it."""

    def __init__(self, channels: int = 3, height: int = 6, width: int = 6) -> None:
        super().__init__()
        self.weight = torch.randn(channels, height, width, generator=torch.Generator().manual_seed(5))

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.weight.to(images)).flatten(1).sum(1)


def linear(count: int = 2) -> rr.Objective:
    """The score itself is what rises."""
    return rr.Objective(lambda outputs, target: outputs, lambda outputs, target: outputs > target, torch.zeros(count))


def rise(attack: rr.Attack, images: Tensor) -> Tensor:
    model = Score(*images.shape[1:])
    return model(attack(model, images, linear(len(images)))) - model(images)


def labels(count: int) -> rr.Objective:
    return rr.tasks.Classification().untargeted(torch.zeros(count, dtype=torch.long))


@pytest.mark.parametrize("size", [(6, 6), (5, 11)], ids=str)
@pytest.mark.parametrize(("threat", "share"), [(rr.Linf(EPS), 0.98), (rr.L2(0.3), 0.55)], ids=repr)
def test_square_reaches_a_share_of_the_linear_optimum(size: tuple[int, int], threat: rr.Threat, share: float) -> None:
    images, weight = photos(2, *size), Score(3, *size).weight
    optimum = threat.eps * (weight.abs().sum() if threat.name == "linf" else weight.norm())
    few, many = (rise(rr.attacks.Square(threat, queries=queries), images) / optimum for queries in (50, 2000))
    assert (few < many).all()
    assert (many > share).all()
    assert (many <= 1 + 1e-5).all()


def test_square_in_a_box_with_a_size_a_channel() -> None:
    images, threat = photos(2, 6, 6), rr.threat.NormalisedLinf(0.1, std=(0.1, 0.2, 0.3))
    found = rr.attacks.Square(threat, queries=600)(Score(), images, linear())
    sizes = (found - images).abs()
    assert ((sizes.amax((0, 2, 3)) - torch.tensor([0.01, 0.02, 0.03])).abs() < 1e-6).all()
    optimum = (Score().weight.abs().sum((1, 2)) * torch.tensor([0.01, 0.02, 0.03])).sum()
    assert (Score()(found) - Score()(images) > 0.9 * optimum).all()


def test_square_knows_which_threats_have_squares() -> None:
    class Odd(rr.Threat):
        limit = draw = steepest = size = lambda self, *rest: rest[0]

    with pytest.raises(TypeError, match=r"expected Linf or L2.*attacks\.SimBA"):
        rr.attacks.Square(Odd(0.1))
    with pytest.raises(ValueError, match=r"share: expected a share of the pixels in \(0, 1\], got 0"):
        rr.attacks.Square(rr.Linf(EPS), share=0.0)


def test_squares_get_smaller_on_the_papers_schedule_whatever_the_budget() -> None:
    for queries in (10_000, 500):
        attack = rr.attacks.Square(rr.Linf(EPS), queries=queries, share=0.8)
        halved = [attack._covered(round(at * queries / 10_000)) for at in (0, 200, 240, 1000, 1040, 8000, 9000)]
        assert halved == [0.8 / 2**k for k in (0, 2, 3, 4, 5, 8, 9)]


def test_square_changes_one_square_at_a_time_of_one_sign_a_channel_at_the_rim_too() -> None:
    images, draws = photos(400, 5, 8), Draws(None)
    moves = _Flat(rr.Linf(EPS))
    begin = moves.start(images, draws)
    assert (begin == begin[:, :, :1]).all()
    assert torch.allclose(begin.abs(), torch.tensor(EPS))
    after = moves.change(torch.zeros_like(images), 3.2, draws)
    touched = after[:, 0] != 0
    assert (touched.sum((1, 2)) == 9).all()
    assert touched.sum(0)[0, 0] > 0
    assert touched.sum(0)[-1, -1] > 0  # every place is possible, the last one too
    assert ((after.amax((2, 3)) + after.amin((2, 3))).abs() - EPS).abs().max() < 1e-6  # one sign within a square
    assert 0.3 < (after.sum((2, 3)) > 0).float().mean() < 0.7
    assert len({tuple(one.flatten().tolist()) for one in touched}) > 10  # every image has its own


def test_square_moves_length_from_one_window_to_another_and_uses_all_of_it() -> None:
    images, draws, threat = photos(50, 9, 12), Draws(None), rr.L2(0.3)
    moves = _Bumps(threat)
    delta = moves.start(images, draws)
    torch.testing.assert_close(threat.size(delta), torch.full((50,), 0.3))
    for side in (6.0, 4.0, 3.0):
        delta = moves.change(delta * 0.9, side, draws)
        torch.testing.assert_close(threat.size(delta), torch.full((50,), 0.3))
    upright, lying = _hills(5)
    assert torch.equal(upright.T, lying)
    assert (upright[:2] > 0).all()
    assert (upright[2:] < 0).all()
    torch.testing.assert_close(upright.norm(), torch.tensor(1.0))
    torch.testing.assert_close(_hills(1).abs(), torch.ones(2, 1, 1))
    window = _Window(images, 4, draws)
    assert torch.equal(window.paste(images, window.cut(images)), images)


def test_simba_reaches_its_closed_form_with_all_values() -> None:
    images, sign = photos(2, 6, 6), Score().weight.sign()
    found = rr.attacks.SimBA(rr.Linf(EPS), queries=1 + 2 * 108)(Score(), images, linear())
    torch.testing.assert_close(found, images + EPS * sign, atol=1e-6, rtol=0)
    short = rr.attacks.SimBA(rr.L2(1.0), queries=1 + 2 * 108, step=0.01)(Score(), images, linear())
    change = short - images
    assert (change * sign >= -1e-6).all()
    once = int((sign < 0).sum()) * 1 + int((sign > 0).sum()) * 2  # a step back is tried first
    exact = rr.attacks.SimBA(rr.L2(1.0), queries=1 + once, step=0.01)(Score(), images, linear())
    torch.testing.assert_close(exact, images + 0.01 * sign, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(6, 6), (4, 7)], ids=str)
def test_simba_dct_reaches_its_closed_form_with_all_waves(size: tuple[int, int]) -> None:
    images, weight = photos(2, *size), Score(3, *size).weight
    attack = rr.attacks.SimBADCT(rr.L2(1.0), queries=1, step=0.005, frequencies=1.0)
    count = attack.count(images)
    assert count == images[0].numel()
    basis = torch.cat([attack.direction(torch.tensor([k]), images[:1]) for k in range(count)]).flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(count), atol=1e-5, rtol=0)
    slopes = basis @ weight.flatten()
    once = int((slopes < 0).sum()) + 2 * int((slopes > 0).sum())
    found = attack.replace(queries=1 + once)(Score(3, *size), images, linear())
    best = images + 0.005 * (slopes.sign() @ basis).view(1, 3, *size)
    torch.testing.assert_close(found, best, atol=1e-5, rtol=0)


def test_simba_dct_keeps_to_low_frequencies() -> None:
    images = photos(2, 16, 16)
    found = rr.attacks.SimBADCT(rr.L2(0.3), queries=40, step=0.02, frequencies=0.25)(Score(3, 16, 16), images, linear())
    everything = rr.attacks.SimBADCT(rr.L2(0.3), frequencies=1.0)
    chosen = torch.arange(everything.count(images))
    low = (chosen // 16 % 16 < 4) & (chosen % 16 < 4)
    basis = torch.cat([everything.direction(one[None], images[:1]) for one in chosen]).flatten(1)
    parts = (found - images).flatten(1) @ basis.T
    assert parts[:, ~low].abs().max() < 1e-5
    assert parts[:, low].abs().max() > 0.019


def test_simba_goes_on_with_the_other_sign_only_where_the_first_failed() -> None:
    shown: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        shown.append(images)
        return Score()(images)

    images = photos(1, 6, 6)
    rr.attacks.SimBA(rr.L2(5.0), queries=30)(model, images, linear(1))
    score = [float(Score()(one)) for one in shown]
    best, place, moved = score[0], set(), 0
    for one, value in zip(shown[1:], score[1:], strict=True):
        (where,) = (one - shown[0]).flatten().abs().gt(1e-7).nonzero().T.tolist()
        place |= set(where)
        moved += value > best
        best = max(best, value)
    assert len(place) <= moved + 2
    assert moved >= 10


def test_nes_estimates_the_true_gradient() -> None:
    images, model = photos(4, 6, 6), Linear2()
    goal = labels(4)
    leaf = images.clone().requires_grad_()
    (true,) = torch.autograd.grad(goal.gain(model(leaf)).sum(), leaf)

    def guess(pairs: int) -> Tensor:
        return estimate(Oracle(model, images, goal, queries=2 * pairs), images, pairs, 0.01, Draws(None))

    def alike(pairs: int) -> Tensor:
        return torch.cosine_similarity(guess(pairs).flatten(1), true.flatten(1))

    few, many = alike(5), alike(400)
    assert (many > 0.8).all()  # about sqrt(pairs / (pairs + values)) = 0.89
    assert few.mean() < 0.4
    size = torch.stack([guess(2000).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)]).mean()
    assert 0.9 < size < 1.15


def test_nes_approaches_the_linear_optimum() -> None:
    images, weight = photos(2, 6, 6), Score().weight
    for threat, optimum, share in (
        (rr.Linf(EPS), EPS * weight.abs().sum(), 0.75),
        (rr.L2(0.3), 0.3 * weight.norm(), 0.85),
    ):
        assert (rise(rr.attacks.NES(threat, queries=2000), images) > share * optimum).all()


def test_nes_spends_a_short_rest_on_fewer_pairs() -> None:
    shown: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        shown.append(images)
        return Score()(images)

    images = photos(1, 6, 6)
    found = rr.attacks.NES(rr.Linf(EPS), queries=9, pairs=50)(model, images, linear(1))
    assert len(shown) == 8  # clean, three pairs, the step
    assert Score()(found) > Score()(images)
    assert all(bool(((one >= 0) & (one <= 1)).all()) for one in shown)


def test_black_box_attacks_stand_off_where_nothing_moves() -> None:
    images = photos(2, 6, 6)
    for attack in (
        rr.attacks.Square(rr.Linf(EPS), queries=20),
        rr.attacks.SimBA(rr.Linf(EPS), queries=20),
        rr.attacks.NES(rr.Linf(EPS), queries=20),
    ):
        found = attack(lambda x: torch.zeros(len(x), 2), images, labels(2))
        assert torch.equal(found, images)


def test_transfer_shows_what_was_made_on_the_source() -> None:
    images, model, source = photos(3, 6, 6), Linear2(), Linear2()
    with torch.no_grad():
        source.weight += 0.3 * torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0))
    inner = rr.attacks.PGD(rr.Linf(EPS), steps=4)
    attack = rr.attacks.Transfer(inner, source)
    made = inner(source, images, labels(3))
    assert torch.equal(attack(model, images, labels(3)), made)
    assert attack.threat is inner.threat
    backwards = Linear2()
    with torch.no_grad():
        backwards.weight.neg_()
    useless = rr.attacks.Transfer(inner, backwards)(model, images, labels(3))
    assert torch.equal(useless, images)  # the clean image was worse


def test_transfer_goes_for_the_highest_gain_on_the_source_also_where_harm_counts() -> None:
    images, weight = photos(2, 6, 6), Linear2().weight.detach()
    margin = ((images - 0.5) * weight).flatten(1).sum(1)
    images = images + ((0.1 - margin) / weight.square().sum())[:, None, None, None] * weight  # the source is fooled easily
    inner = rr.attacks.PGD(rr.Linf(EPS), steps=10)
    found = rr.attacks.Transfer(inner, Linear2())(Linear2(), images, labels(2).judged())
    assert (rr.Linf(EPS).size(found - images) > 0.99 * EPS).all()
    torch.testing.assert_close(found, images - EPS * weight.sign(), atol=1e-6, rtol=0)


def test_transfer_leaves_the_source_as_it_was() -> None:
    source = Moody().train()
    source.drop.eval()
    buffers = {name: value.clone() for name, value in source.named_buffers()}
    images, target = photos(2), torch.zeros(2, 16, 20, dtype=torch.long)
    attack = rr.attacks.Transfer(rr.attacks.PGD(rr.Linf(EPS), steps=2), source)
    attack(Moody(), images, rr.tasks.Segmentation().untargeted(target))
    assert (source.training, source.norm.training, source.drop.training) == (True, True, False)
    assert all(torch.equal(value, buffers[name]) for name, value in source.named_buffers())
    assert all(p.grad is None for p in source.parameters())


def test_transfer_is_saved_without_its_source() -> None:
    attack = rr.attacks.Transfer(rr.attacks.PGD(rr.Linf(EPS), steps=2), Linear2())
    rr.checks.check_component(attack, {"source": attack.source})
    assert "source=Linear2" in repr(attack)
    for wrong, what in (
        ((rr.attacks.PGD, Linear2()), "expected an attack"),
        ((rr.attacks.PGD(rr.Linf(EPS)), lambda x: x), r"expected a torch\.nn\.Module, got function"),
    ):
        with pytest.raises(TypeError, match=what):
            rr.attacks.Transfer(*wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected one that does harm"):
        rr.attacks.Transfer(rr.attacks.AMA(rr.Linf(EPS)), Linear2())


def test_square_breaks_a_model_so_sure_that_log_sum_exp_sees_nothing() -> None:
    inner, images = Linear2(), photos(1, 6, 6)
    label, score = inner(images).argmax(1), float(inner(images).detach().max())
    goal = rr.tasks.Classification().untargeted(label)

    def sure(x: Tensor) -> Tensor:
        return inner(x) * 30 / score  # a lead of 60

    attack = rr.attacks.Square(rr.Linf(2 * score / float(inner.weight.detach().abs().sum())), 300)
    assert nn.functional.cross_entropy(sure(images), label) == 0
    assert goal.reached(sure(attack(sure, images, goal))).all()
