"""Black-box attacks: the budget is kept for every image, no gradient is taken, batch mates do not matter."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import Gain, Linear2, PixelSegmenter, photos

import robustrestore as rr
from robustrestore.black_box import BlackBox, Draws, Oracle
from robustrestore.counting import Counted

EPS = 8 / 255


@pytest.fixture(autouse=True)
def _always_the_same() -> Iterator[None]:
    with rr.seeded(0):
        yield


Make = Callable[..., BlackBox]
ATTACKS: dict[str, Make] = {
    "nes": lambda threat, **more: rr.attacks.NES(threat, pairs=4, **more),
    "simba": rr.attacks.SimBA,
    "simba_dct": lambda threat, **more: rr.attacks.SimBADCT(threat, frequencies=0.5, **more),
    "square": rr.attacks.Square,
    "transfer": lambda threat, seed=0, **more: rr.attacks.Transfer(
        rr.attacks.PGD(threat, steps=2, seed=seed), Linear2(), **more
    ),
}
NAMES = pytest.mark.parametrize("name", sorted(ATTACKS))


class _NoWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise AssertionError("a black-box attack took a gradient")


class Forbidden(nn.Module):
    """A model whose outputs carry no graph, and whose gradient raises."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.graphs = 0

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.model(_NoWayBack.apply(images))
        self.graphs += int(outputs.requires_grad)
        return outputs


def labels(count: int) -> rr.Objective:
    return rr.tasks.Classification().untargeted(torch.zeros(count, dtype=torch.long))


def unlike(count: int) -> Tensor:
    """Images that are harmed after different numbers of queries, some from the start, some never."""
    weight = Linear2().weight.detach()
    images = photos(count, 6, 6)
    margin = ((images - 0.5) * weight).flatten(1).sum(1)
    wanted = torch.linspace(-0.2, 2, count)
    return (images + ((wanted - margin) / weight.square().sum())[:, None, None, None] * weight).clamp(0, 1)


@NAMES
def test_every_attack_is_a_black_box_with_a_budget(name: str) -> None:
    attack = ATTACKS[name](rr.Linf(EPS), queries=7)
    assert isinstance(attack, rr.Attack.named(name))
    assert attack.settings()["queries"] == 7
    with pytest.raises(ValueError, match="queries: expected a whole number >= 1, got 0"):
        ATTACKS[name](rr.Linf(EPS), queries=0)
    if name != "transfer":
        with pytest.raises(TypeError, match="expected a Threat"):
            rr.Attack.named(name)(0.1)


@NAMES
@pytest.mark.parametrize("threat", [rr.Linf(EPS), rr.L2(0.3)], ids=repr)
def test_no_gradient_is_ever_taken(name: str, threat: rr.Threat) -> None:
    model, images = Forbidden(Linear2()), photos(3, 6, 6)
    found = ATTACKS[name](threat, queries=60)(model, images, labels(3))
    assert model.graphs == 0
    assert (labels(3).gain(Linear2()(found)) > labels(3).gain(Linear2()(images))).all()
    with pytest.raises(AssertionError, match="took a gradient"):  # the test could fail
        rr.attacks.PGD(threat)(model, images, labels(3))


def _whole_steps(queries: int, pairs: int) -> int:
    """What NES can spend: the clean image, whole steps, and what pairs and a look the rest pays."""
    steps, rest = divmod(queries - 1, 2 * pairs + 1)
    return 1 + steps * (2 * pairs + 1) + (0 if rest < 3 else (rest - 1) // 2 * 2 + 1)


@NAMES
@pytest.mark.parametrize("queries", [1, 2, 7, 50])
@pytest.mark.parametrize("judged", [False, True], ids=["gain", "harm"])
def test_the_budget_is_kept_for_every_image(name: str, queries: int, judged: bool) -> None:
    images = unlike(5)
    goal = labels(5).judged() if judged else labels(5)
    attack, spent = ATTACKS[name](rr.Linf(EPS), queries=queries), []
    for place, image in enumerate(images.split(1)):
        model = Counted(Linear2())
        attack(model, image, goal.at(torch.tensor([place])))
        assert model.images <= queries
        spent.append(model.images)
    together = Counted(Linear2())
    attack(together, images, goal)
    assert together.images == sum(spent)  # in a batch, what is done is not asked about either
    most = min(queries, 2) if name == "transfer" else _whole_steps(queries, pairs=4) if name == "nes" else queries
    if not judged:
        assert spent == [most] * 5
    else:
        assert spent[0] == 1  # wrong from the start
        assert max(spent) <= most


@NAMES
def test_a_judged_image_costs_nothing_more_once_it_is_harmed(name: str) -> None:
    images = unlike(5)
    model = Counted(Linear2())
    found = ATTACKS[name](rr.Linf(EPS), queries=400)(model, images, labels(5).judged())
    assert (Linear2()(found).argmax(1) == 1).sum() >= 2
    assert model.images < 5 * 400 * 0.9


@NAMES
@pytest.mark.parametrize("judged", [False, True], ids=["gain", "harm"])
def test_batch_mates_do_not_matter(name: str, judged: bool) -> None:
    images = unlike(9)
    goal = labels(9).judged() if judged else labels(9)
    attack = ATTACKS[name](rr.Linf(EPS), queries=40, seed=3) if name != "transfer" else ATTACKS[name](rr.Linf(EPS))
    whole = attack(Linear2(), images, goal)
    single = [attack(Linear2(), one, goal.at(torch.tensor([k]))) for k, one in enumerate(images.split(1))]
    torch.testing.assert_close(whole, torch.cat(single), atol=1e-6, rtol=0)


@NAMES
def test_without_a_seed_every_image_draws_for_itself(name: str) -> None:
    images = photos(1, 6, 6).expand(2, -1, -1, -1)
    same = ATTACKS[name](rr.Linf(EPS), queries=12, seed=0)(Linear2(), images, labels(2))
    assert torch.equal(same[0], same[1])
    if name != "transfer":
        own = ATTACKS[name](rr.Linf(EPS), queries=12, seed=None)(Linear2(), images, labels(2))
        assert not torch.equal(own[0], own[1])


@NAMES
@pytest.mark.parametrize("threat", [rr.Linf(EPS), rr.L2(0.3), rr.Linf(0.0), rr.L2(0.0)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_promises_on_odd_sizes_and_dtypes(name: str, threat: rr.Threat, dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 7, 12, generator=torch.Generator().manual_seed(4)).to(dtype)
    images[0, :, 0], images[0, :, 1] = 0, 1

    class Wide(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = (images[:, :, ::2] - images[:, :, :1]).flatten(1).mean(1)
            return torch.stack([score, -score], dim=1)

    make = (
        (lambda threat, **more: rr.attacks.Transfer(rr.attacks.PGD(threat, steps=2), Wide(), **more))
        if name == "transfer"
        else ATTACKS[name]
    )
    objective = rr.tasks.Classification().untargeted(torch.tensor([0, 1]))
    attack = make(threat, queries=30)
    found = attack(Wide(), images, objective)
    assert found.dtype == dtype
    if dtype != torch.float16:
        rr.checks.check_attack(attack, Wide(), images, objective)
    else:
        assert (threat.size(found.float() - images.float()) <= threat.eps + 1e-6).all()
    if threat.eps == 0:
        assert torch.equal(found, images)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (4, 4), (5, 33)], ids=str)
@NAMES
def test_tiny_and_narrow_images(name: str, size: tuple[int, int]) -> None:
    def model(images: Tensor) -> Tensor:
        score = images.flatten(1).mean(1)
        return torch.stack([score, -score], dim=1)

    source = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    for threat in (rr.Linf(EPS), rr.L2(0.1)):
        transfer = rr.attacks.Transfer(rr.attacks.FGSM(threat), source)
        attack = transfer if name == "transfer" else ATTACKS[name](threat, queries=20)
        images = photos(2, *size)
        found = attack(model, images, labels(2))
        assert (threat.size(found - images) <= threat.eps * (1 + 1e-5)).all()


@NAMES
def test_segmenters_and_restorers(name: str) -> None:
    images, target = photos(2, 6, 9), torch.zeros(2, 6, 9, dtype=torch.long)
    target[:, :2] = 255
    for model, objective in (
        (PixelSegmenter(), rr.tasks.Segmentation().untargeted(target)),
        (Gain(0.5), rr.tasks.Restoration().untargeted(images * 0.5)),
    ):
        transfer = rr.attacks.Transfer(rr.attacks.PGD(rr.Linf(EPS), steps=2), model)
        attack = transfer if name == "transfer" else ATTACKS[name](rr.Linf(EPS), queries=30)
        found = attack(Forbidden(model) if name != "transfer" else model, images, objective)
        assert (objective.gain(model(found)) > objective.gain(model(images))).all()


def test_the_oracle_counts_refuses_and_keeps_the_best_that_it_was_asked() -> None:
    images, model = photos(3, 6, 6), Linear2()
    oracle = Oracle(model, images, labels(3), queries=3)
    better = images - EPS * model.weight.detach().sign()
    gains = [oracle.ask(one) for one in (images, better)]
    assert (gains[1] > gains[0]).all()
    assert not gains[0].requires_grad
    assert oracle.left == 1
    assert (oracle.gauge(better - 0.2 * model.weight.detach().sign()) > gains[1]).all()
    assert oracle.spent.tolist() == [3, 3, 3]
    assert oracle.left == 0
    for ask in (oracle.ask, oracle.gauge):
        with pytest.raises(ValueError, match=r"at most 3 an image, got one more: ask while oracle\.left"):
            ask(images)
    assert torch.equal(oracle.result(), better)


def test_the_oracle_drops_each_harmed_image_at_once() -> None:
    images = unlike(9)
    oracle = Oracle(Linear2(), images, labels(9).judged(), queries=5)
    oracle.ask(images)
    kept = oracle.drop()
    assert kept is not None
    assert kept.tolist() == list(range(1, 9))  # one of nine is fewer than an eighth
    assert torch.equal(oracle.original, images[1:])
    oracle.ask(images[1:])
    assert oracle.spent.tolist() == [1, *[2] * 8]
    assert oracle.drop() is None


def test_a_loss_that_asks_for_the_clean_outputs_pays_for_them() -> None:
    class Away(rr.Loss):
        def run(self, model: Any, images: Tensor, objective: rr.Objective) -> rr.Objective:
            return dataclasses.replace(
                objective, measure=lambda o, t, clean: (o - clean).square().flatten(1).mean(1), context=(model(images),)
            )

    images = photos(2, 6, 6)
    for queries in (1, 2, 9):
        model = Counted(Gain(0.5))
        attack = rr.attacks.Square(rr.Linf(EPS), queries=queries, loss=Away())
        attack(model, images, rr.tasks.Restoration().untargeted(images))
        assert model.images == 2 * queries


def test_a_loss_whose_values_do_not_compare_is_refused() -> None:
    for attack in (rr.attacks.Square, rr.attacks.NES):
        with pytest.raises(ValueError, match="loss: expected one whose values at two images compare, got MaskedCrossEntropy"):
            attack(rr.Linf(EPS), loss=rr.losses.MaskedCrossEntropy())
        found = attack(rr.Linf(EPS), queries=60, loss=rr.losses.Margin())(Linear2(), photos(2, 6, 6), labels(2))
        assert (labels(2).gain(Linear2()(found)) > labels(2).gain(Linear2()(photos(2, 6, 6)))).all()


def test_nan_outputs_are_named() -> None:
    for name in ATTACKS:
        with pytest.raises(ValueError, match="expected finite values, got NaN"):
            ATTACKS[name](rr.Linf(EPS), queries=20)(lambda x: Linear2()(x) * torch.nan, photos(2, 6, 6), labels(2))


def test_low_precision_costs_no_query_more_and_loses_no_image() -> None:
    images, goal = photos(3, 6, 6), labels(3)
    model = Counted(Linear2())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rr.attacks.Square(rr.Linf(EPS), queries=30)(model, images, goal)
    assert model.images == 90
    assert torch.equal(found, rr.attacks.Square(rr.Linf(EPS), queries=30)(Linear2(), images, goal))


def test_a_plug_in_cannot_leave_its_budget_or_see_more_than_outputs(names_put_back: None) -> None:
    class Greedy(BlackBox, name="greedy_for_a_test"):
        def __init__(self, threat: rr.Threat, queries: int = 4) -> None:
            super().__init__(threat, queries)

        def hunt(self, oracle: Oracle, gain: Tensor) -> None:
            while True:
                oracle.ask(oracle.original)

    with pytest.raises(ValueError, match="at most 4 an image"):
        Greedy(rr.Linf(EPS))(Linear2(), photos(2, 6, 6), labels(2))
    with pytest.raises(TypeError, match=r"Own\.run: expected it to stay that of BlackBox"):

        class Own(BlackBox):
            def run(self, model: Any, images: Tensor, objective: rr.Objective) -> Tensor:  # type: ignore[misc]
                return images


def test_draws_are_equal_with_a_seed_and_fresh_without() -> None:
    images = photos(3, 6, 6).double()
    seeded, fresh = Draws(0), Draws(None)
    for make in (lambda d: d.uniform(images, 2, 5), lambda d: d.normal(images, 2, 5), lambda d: d.signs(images, 9)):
        assert torch.equal(*make(seeded)[:2])
        assert not torch.equal(*make(fresh)[:2])
    assert make(fresh).dtype == torch.float64
    whole = fresh.below(3, images, 4000)
    assert whole.unique().tolist() == [0, 1, 2]
    assert (whole.flatten().bincount() / whole.numel() - 1 / 3).abs().max() < 0.03
    assert fresh.signs(images, 4000).mean().abs() < 0.05


@pytest.mark.gpu
@NAMES
def test_on_a_gpu(name: str) -> None:
    images, goal = unlike(9).cuda(), labels(9)
    objective = rr.tasks.Classification().untargeted(goal.target.cuda()).judged()
    threat = rr.Linf(EPS)
    source = Linear2().cuda()
    inner = rr.attacks.PGD(threat, steps=2)
    attack = rr.attacks.Transfer(inner, source) if name == "transfer" else ATTACKS[name](threat, queries=30)
    found = attack(Forbidden(Linear2()).cuda(), images, objective)
    here = attack.replace(source=Linear2()) if name == "transfer" else attack
    torch.testing.assert_close(found.cpu(), here(Linear2(), images.cpu(), goal.judged()), atol=1e-5, rtol=0)
