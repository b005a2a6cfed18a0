"""SegPGD, CosPGD, NAA, SEA and ALMA-prox against toys whose best attack is known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from toys import Linear2, Moody, PixelSegmenter, photos

import robustrestore as rr
from robustrestore.attacks import alma_prox, sea, seg_pgd
from robustrestore.search import Search

EPS = 8 / 255
TASK = rr.tasks.Segmentation()
ATTACKS: dict[str, Callable[[rr.Threat], rr.Attack]] = {
    "alma_prox": lambda threat: rr.attacks.ALMAProx(threat, steps=60, step=2e-3),
    "cos_pgd": rr.attacks.CosPGD,
    "naa": rr.attacks.NAA,
    "sea": lambda threat: rr.attacks.SEA(threat, steps=20),
    "seg_pgd": rr.attacks.SegPGD,
}
each_attack = pytest.mark.parametrize("name", sorted(ATTACKS))


class Brightest(nn.Module):
    """Three classes: the brightest channel of a pixel."""

    def forward(self, images: Tensor) -> Tensor:
        return 8 * images


def _moody() -> nn.Module:
    with rr.seeded(1):
        return Moody().eval()


def _conflicted(scale: float) -> Callable[[Tensor], Tensor]:
    """A linear segmenter whose pixels share their 5 x 5 surroundings, so that not all can be made wrong at once."""
    with rr.seeded(0):
        conv = nn.Conv2d(3, 4, 5, padding=2)
    return lambda images: scale * conv(images)


def _needed(outputs: Tensor) -> Tensor:
    """The change of each value that takes a pixel over to its second class [N, H, W]; logits are 8 times a difference."""
    top = outputs.topk(2, dim=1).values
    return (top[:, 0] - top[:, 1]) / (32 if outputs.shape[1] == 2 else 16)


@each_attack
@pytest.mark.parametrize("model", [PixelSegmenter(), Brightest()], ids=["two", "three"])
@pytest.mark.parametrize("judged", [False, True], ids=["plain", "judged"])
def test_every_pixel_within_reach_is_wrong(name: str, model: nn.Module, judged: bool) -> None:
    images = photos(3)
    outputs = model(images)
    target, needed = outputs.argmax(1), _needed(outputs)
    target[:, :3] = 255
    goal = TASK.untargeted(target)
    found = ATTACKS[name](rr.Linf(EPS))(model, images, goal.judged() if judged else goal)
    wrong = (model(found).argmax(1) != target)[:, 3:]
    assert (wrong == (needed < EPS)[:, 3:]).float().mean() > 0.995
    assert 0.05 < wrong.float().mean() < 0.95


@each_attack
def test_a_wanted_map_is_reached_where_it_can_be(name: str) -> None:
    images, model = photos(2), PixelSegmenter()
    outputs = model(images)
    wanted = torch.zeros(2, 16, 20, dtype=torch.long)
    found = ATTACKS[name](rr.Linf(EPS))(model, images, TASK.targeted(wanted))
    shown = model(found).argmax(1) == wanted
    assert torch.equal(shown, (outputs.argmax(1) == 0) | (_needed(outputs) < EPS))


@each_attack
def test_an_attack_does_not_depend_on_batch_mates_nor_on_dropped_ones(name: str) -> None:
    images, model = photos(3), PixelSegmenter()
    target = model(images).argmax(1)
    target[1] = 1 - target[1]  # all wrong already: judged, it is dropped
    for goal in (TASK.untargeted(target), TASK.untargeted(target).judged()):
        attack = ATTACKS[name](rr.Linf(EPS))
        whole = attack(model, images, goal)
        alone = torch.cat([attack(model, images[k : k + 1], goal.at(torch.tensor([k]))) for k in range(3)])
        torch.testing.assert_close(whole, alone, atol=1e-5, rtol=0)


@each_attack
def test_no_label_changes_nothing_no_size_changes_nothing_and_a_bad_label_is_named(name: str) -> None:
    images, model = photos(2), PixelSegmenter()
    target = model(images).argmax(1)
    assert torch.equal(ATTACKS[name](rr.Linf(0.0))(model, images, TASK.untargeted(target)), images)
    empty = TASK.untargeted(torch.full_like(target, 255))
    for goal in (empty, empty.judged()):
        assert torch.equal(ATTACKS[name](rr.Linf(EPS))(model, images, goal), images)
    with pytest.raises((ValueError, IndexError, RuntimeError), match="-1"):
        ATTACKS[name](rr.Linf(EPS))(model, images, TASK.untargeted(target.where(target == 0, -1)))


@each_attack
def test_promises(name: str) -> None:
    model, images = _moody(), torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(2))
    target = torch.randint(0, 3, (2, 9, 7), generator=torch.Generator().manual_seed(3))
    rr.checks.check_attack(ATTACKS[name](rr.Linf(EPS)), model, images, TASK.untargeted(target))


@each_attack
def test_what_does_not_fit_is_refused(name: str) -> None:
    attack, images = ATTACKS[name](rr.Linf(EPS)), photos(2)
    fits = {"sea": "segmentation", "seg_pgd": "segmentation", "alma_prox": "classification or segmentation"}
    fits["cos_pgd"] = "segmentation or restoration"
    goals = {
        "classification": rr.tasks.Classification().untargeted(torch.tensor([0, 1])),
        "restoration": rr.tasks.Restoration().untargeted(images),
    }
    for task, goal in goals.items():
        if name in fits and task not in fits[name]:
            with pytest.raises(TypeError, match=f"expected an objective of {fits[name]}, got one of {task}"):
                attack(lambda x: x, images, goal)
    with pytest.raises(ValueError, match="steps: expected a whole number >= 1, got 0"):
        attack.replace(steps=0)
    with pytest.raises(TypeError, match="expected a Threat"):
        attack.replace(threat=0.1)


def test_seg_pgd_moves_its_share_from_0_towards_a_half(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    def spied(share: float) -> rr.Loss:
        shares.append(share)
        return rr.losses.SegPGDWeighted(share)

    monkeypatch.setattr(seg_pgd, "SegPGDWeighted", spied)
    images, model = photos(1), PixelSegmenter()
    rr.attacks.SegPGD(rr.Linf(EPS), steps=4)(model, images, TASK.untargeted(model(images).argmax(1)))
    assert shares == [0, 1 / 8, 2 / 8, 3 / 8]


def test_cos_pgd_is_pgd_on_one_channel_and_close_to_it_on_three() -> None:
    with rr.seeded(0):
        grey, colour = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    task, threat, images = rr.tasks.Restoration(), rr.Linf(EPS), photos(2)
    clean = images[:, :1]
    for goal in (task.untargeted(clean), task.targeted(1 - clean)):
        same = rr.attacks.PGD(threat, seed=3)(grey, clean, goal)
        assert torch.equal(rr.attacks.CosPGD(threat, seed=3)(grey, clean, goal), same)
        assert not torch.equal(same, clean)
    goal = task.untargeted(images)
    cos, pgd = (goal.gain(colour(attack(threat)(colour, images, goal))) for attack in (rr.attacks.CosPGD, rr.attacks.PGD))
    torch.testing.assert_close(cos, pgd, atol=0, rtol=0.02)
    assert (cos > goal.gain(colour(images))).all()


def test_cos_pgd_starts_off_the_clean_image() -> None:
    images = photos(2)
    goal = rr.tasks.Restoration().untargeted(images)  # the identity's own output: no gradient there
    found = rr.attacks.CosPGD(rr.Linf(EPS))(lambda x: 1.0 * x, images, goal)
    torch.testing.assert_close((found - images).abs(), torch.full_like(images, EPS), atol=1e-6, rtol=0)


def test_naa_is_pgd_by_its_name_and_the_counterpart_of_ama() -> None:
    images, model = photos(2), _moody()
    goal = TASK.untargeted(torch.randint(0, 3, (2, 16, 20), generator=torch.Generator().manual_seed(0)))
    found = rr.attacks.NAA(rr.Linf(EPS))(model, images, goal)
    assert torch.equal(found, rr.attacks.PGD(rr.Linf(EPS))(model, images, goal))
    easy, clean, hard = (goal.gain(model(x)) for x in (rr.attacks.AMA(rr.Linf(EPS))(model, images, goal), images, found))
    assert (easy < clean).all()
    assert (clean < hard).all()


def test_sea_walks_three_losses_at_three_radii(monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[tuple[float, int, bool]] = []
    plain = sea.ascend

    def spied(search: Search, threat: rr.Threat, begin: Tensor, steps: int) -> Tensor | None:
        walks.append((threat.eps / EPS, steps, search.comparable))  # plain cross-entropy controls the step: not comparable
        assert float((begin - images).abs().max()) <= threat.eps + 1e-6  # the wider walk's point was projected
        return plain(search, threat, begin, steps)

    monkeypatch.setattr(sea, "ascend", spied)
    images, model = photos(1), PixelSegmenter()
    goal = TASK.untargeted(model(images).argmax(1))
    rr.attacks.SEA(rr.Linf(EPS), steps=10)(model, images, goal)
    assert walks == [(2, 3, False), (1.5, 3, False), (1, 4, False)] * 3
    walks.clear()
    found = rr.attacks.SEA(rr.Linf(EPS), steps=1)(model, images, goal)
    assert walks == [(1, 1, False)] * 3
    assert float((found - images).abs().max()) <= EPS + 1e-6
    assert float(goal.harm(model(found))) > 0


def test_sea_keeps_the_image_of_lowest_accuracy_and_a_huge_threat_has_no_wider_one() -> None:
    images, model = photos(2), _conflicted(40)
    target = model(images).argmax(1)
    goal = TASK.untargeted(target)
    found = goal.harm(model(rr.attacks.SEA(rr.Linf(EPS), steps=30)(model, images, goal.judged())))
    apgd = goal.harm(model(rr.attacks.APGD(rr.Linf(EPS), steps=90)(model, images, goal.judged())))
    assert (found > apgd + 0.02).all()  # the same number of gradients, all on the cross-entropy
    all_black_or_white = rr.attacks.SEA(rr.Linf(0.8), steps=10)(model, images, goal)
    assert float((all_black_or_white - images).abs().max()) <= 0.8 + 1e-6
    rr.attacks.SEA(rr.L2(0.5), steps=4)(model, images, goal)


@pytest.mark.parametrize("model", [PixelSegmenter(), Brightest()], ids=["two", "three"])
def test_alma_prox_comes_close_to_the_smallest_change(model: nn.Module) -> None:
    images = photos(3)
    outputs = model(images)
    target = outputs.argmax(1)
    best = _needed(outputs).flatten(1).quantile(0.99, dim=1)
    found = rr.attacks.ALMAProx(rr.Linf(0.9), steps=300, step=2e-3)(model, images, TASK.untargeted(target))
    size = (found - images).abs().flatten(1).amax(1)
    assert ((model(found).argmax(1) != target).flatten(1).float().mean(1) >= 0.99).all()
    assert (size < 1.03 * best).all()
    half = rr.attacks.ALMAProx(rr.Linf(0.9), steps=300, step=2e-3, share=0.5)(model, images, TASK.untargeted(target))
    middle = _needed(outputs).flatten(1).quantile(0.5, dim=1)
    assert ((half - images).abs().flatten(1).amax(1) < 1.15 * middle).all()
    judged = rr.attacks.ALMAProx(rr.Linf(0.9), steps=40)(model, images, TASK.untargeted(target).judged())
    assert ((model(judged).argmax(1) != target).flatten(1).float().mean(1) == 1).all()


def test_alma_prox_does_not_mind_the_scale_of_logits() -> None:
    """Where logits are small, cross-entropy is all but linear and cannot tell a near pixel from a hopeless one."""
    images = photos(2)
    goal = TASK.untargeted(_conflicted(1)(images).argmax(1)).judged()

    def harm(attack: rr.Attack, scale: float) -> Tensor:
        return goal.harm(_conflicted(scale)(attack(_conflicted(scale), images, goal)))

    small, large = (harm(rr.attacks.ALMAProx(rr.Linf(EPS), steps=60), scale) for scale in (1, 100))
    torch.testing.assert_close(small, large, atol=0.01, rtol=0)
    assert (small > harm(rr.attacks.PGD(rr.Linf(EPS), steps=60), 1) + 0.05).all()


def test_alma_prox_on_a_linear_classifier() -> None:
    images, model = photos(3, 6, 6), Linear2()
    score = model(images)[:, 0]
    labels = (score < 0).long()
    best = score.abs() / model.weight.detach().abs().sum()
    found = rr.attacks.ALMAProx(rr.Linf(0.5), steps=300)(model, images, rr.tasks.Classification().untargeted(labels))
    size = (found - images).abs().flatten(1).amax(1)
    assert (model(found).argmax(1) != labels).all()
    assert (size < 1.1 * best).all()


def test_alma_prox_with_too_little_time_or_room_still_does_harm() -> None:
    images, model = photos(2), Brightest()
    goal = TASK.untargeted(model(images).argmax(1))
    clean = goal.gain(model(images))
    for attack in (rr.attacks.ALMAProx(rr.Linf(EPS), steps=1, step=1e-5), rr.attacks.ALMAProx(rr.Linf(1 / 255), steps=450)):
        found = attack(model, images, goal)
        assert found.isfinite().all()
        assert (goal.gain(model(found)) > clean + 1e-3).all()


def test_alma_prox_leaves_alone_what_is_wrong_already_unless_judged() -> None:
    images, model = photos(2), Brightest()
    target = (model(images).argmax(1) + 1) % 3
    assert torch.equal(rr.attacks.ALMAProx(rr.Linf(EPS), steps=5)(model, images, TASK.untargeted(target)), images)


def test_alma_prox_keeps_no_small_change_that_lowers_the_objective() -> None:
    """The left pixel can be made wrong, which makes the right one surer by more."""

    def model(images: Tensor) -> Tensor:
        more = images.mean((1, 2, 3)) - 0.5
        lead = torch.stack([0.01 - more, 0.1 + 10 * more.relu()], dim=1)[:, None]
        return torch.stack([lead, -lead], dim=1)

    images, goal = torch.full((1, 1, 1, 2), 0.5), TASK.untargeted(torch.zeros(1, 1, 2, dtype=torch.long))
    hurt = goal.harm(model(images + 0.03)), goal.gain(model(images + 0.03))
    assert float(hurt[0]) == 0.5
    assert hurt[1] < goal.gain(model(images))
    found = rr.attacks.ALMAProx(rr.Linf(0.3), steps=100, step=1e-2, share=0.01)(model, images, goal)
    assert goal.gain(model(found)) >= goal.gain(model(images))


def test_alma_prox_slope_is_the_derivative_of_the_penalty() -> None:
    """adv-lib 0.2.8 has 0.431 at y 0.3, penalty 0.5, multiplier 0.7."""
    y = torch.tensor([-2.0, -0.3, 0.0, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    m, r = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    above, below = m * y + m * r * y**2 + r**2 * y**3 / 6, m * y / (1 - r.clamp(min=1) * y)
    (wanted,) = torch.autograd.grad(torch.where(y >= 0, above, below).sum(), y)
    found = alma_prox.slope(y.detach(), r, m)
    torch.testing.assert_close(found, wanted)
    assert float(found[3]) == pytest.approx(0.92125)


def test_alma_prox_proximal_step_is_the_least_cost() -> None:
    own = torch.Generator().manual_seed(0)
    wanted = torch.randn(3, 1, 2, 4, generator=own, dtype=torch.float64)
    metric = torch.rand(3, 1, 2, 4, generator=own, dtype=torch.float64) + 0.1
    rate = torch.tensor([0.3, 1.0, 50.0], dtype=torch.float64)
    room = -torch.rand(wanted.shape, generator=own).double(), torch.rand(wanted.shape, generator=own).double()

    def cost(change: Tensor) -> Tensor:
        return rate * change.abs().flatten(1).amax(1) + (metric * (change - wanted).square()).flatten(1).sum(1) / 2

    inside = torch.minimum(torch.maximum(wanted, room[0]), room[1])
    grid = torch.stack([cost(inside.clamp(-t, t)) for t in torch.linspace(0, 1, 20001).tolist()]).amin(0)
    found = alma_prox.proximal(wanted, rate, metric, room)
    assert ((found >= room[0]) & (found <= room[1])).all()
    assert (cost(found) <= grid + 1e-4).all()
    assert float(found[2].abs().max()) < 1e-5  # the price of any change is too high
    assert float(found[0].abs().max()) > 0.1


def test_alma_prox_drops_the_hardest_pixels_gradually() -> None:
    value = torch.arange(10.0)[None]
    valid = torch.ones(1, 10, dtype=torch.bool)
    valid[0, 9] = False
    kept = [int(((value <= alma_prox._hardest(value, valid, share)) & valid).sum()) for share in (0, 0.12, 0.34, 0.5)]
    assert kept == [9, 8, 6, 5]


def test_alma_prox_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="threat: expected Linf"):
        rr.attacks.ALMAProx(rr.L2(0.5))
    with pytest.raises(ValueError, match="share: expected"):
        rr.attacks.ALMAProx(rr.Linf(EPS), share=0.0)
    with pytest.raises(ValueError, match="step: expected"):
        rr.attacks.ALMAProx(rr.Linf(EPS), step=0.0)
