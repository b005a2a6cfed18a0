"""BIM, MI-FGSM, TPGD and Jitter against optima, references and the traps of other implementations."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import Gain, Linear2, Moody, photos

import robustrestore as rr
from robustrestore.attacks.jitter import _Jittered
from robustrestore.search import ascent

EPS = 8 / 255
LABELS = rr.tasks.Classification()


@pytest.mark.parametrize("name", ["bim", "mi_fgsm"])
@pytest.mark.parametrize("threat", [rr.Linf(EPS), rr.L2(0.1)], ids=repr)
def test_linear_model_optimum(name: str, threat: rr.Threat) -> None:
    model, images = Linear2(), photos(3, 6, 6)
    found = rr.Attack.named(name)(threat, steps=10)(model, images, LABELS.untargeted(torch.tensor([0, 0, 0])))
    best = images - threat.eps * threat.steepest(model.weight.detach()[None])
    torch.testing.assert_close(found, best, atol=1e-6, rtol=0)


def test_bim_starts_at_the_clean_image() -> None:
    images, model = photos(2), Moody().eval()
    goal = rr.tasks.Segmentation().untargeted(torch.zeros(2, 16, 20, dtype=torch.long))
    same = rr.attacks.PGD(rr.Linf(EPS), steps=4, step=0.01, random_start=False)
    assert torch.equal(rr.attacks.BIM(rr.Linf(EPS), steps=4, step=0.01)(model, images, goal), same(model, images, goal))
    still = rr.tasks.Restoration().untargeted(images)
    assert torch.equal(rr.attacks.BIM(rr.Linf(EPS))(Gain(), images, still), images)  # no gradient there, as documented


def test_mi_fgsm_is_its_formula() -> None:
    images, model, threat = photos(2), Moody().eval(), rr.Linf(EPS)
    goal = rr.tasks.Segmentation().untargeted(torch.randint(0, 3, (2, 16, 20), generator=torch.Generator().manual_seed(0)))
    current, total, seen = images, torch.zeros_like(images), []
    for _ in range(5):
        leaf = current.clone().requires_grad_()
        gain = goal.gain(model(leaf))
        (gradient,) = torch.autograd.grad(gain.sum(), leaf)
        seen.append((gain.detach(), current))
        total = 0.7 * total + gradient / gradient.abs().flatten(1).sum(1).view(-1, 1, 1, 1)
        current = (images + (current + EPS / 5 * total.sign() - images).clamp(-EPS, EPS)).clamp(0, 1)
    seen.append((goal.gain(model(current)).detach(), current))
    best = torch.stack([gain for gain, _ in seen]).argmax(0)
    wanted = torch.stack([seen[k][1][image] for image, k in enumerate(best.tolist())])
    found = rr.attacks.MIFGSM(threat, steps=5, momentum=0.7)(model, images, goal)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_zero_gradient_does_not_end_mi_fgsm() -> None:
    images = torch.full((2, 3, 6, 6), 0.5)
    images[1] += 0.2

    def model(x: torch.Tensor) -> torch.Tensor:
        score = x.flatten(1).mean(1)
        flat = score + (score < 0.495) * (score.detach() - score)  # no gradient from the second step on
        dead = torch.where(score.detach() > 0.6, 0.6, flat)  # and none at all for the second image
        return torch.stack([dead, -dead], dim=1)

    found = rr.attacks.MIFGSM(rr.Linf(0.1), steps=10)(model, images, LABELS.untargeted(torch.tensor([0, 0])))
    torch.testing.assert_close(found[0], images[0] - 0.1, atol=1e-6, rtol=0)
    assert torch.equal(found[1], images[1])


def test_mi_fgsm_follows_gradients_of_any_size() -> None:
    images, model = photos(2, 6, 6), Linear2()
    goal = rr.losses.Margin()(model, images, LABELS.untargeted(torch.tensor([0, 0])))
    attack = rr.attacks.MIFGSM(rr.L2(0.1), steps=4)
    found = [attack(lambda x, scale=scale: scale * model(x), images, goal) for scale in (1.0, 1e-25)]
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)
    assert not torch.equal(found[0], images)


def test_tpgd_needs_no_label_and_starts_off_the_clean_image() -> None:
    images, model = photos(2, 6, 6), Linear2()
    objective = rr.losses.Divergence()(model, images, LABELS.untargeted(torch.tensor([0, 1])))
    found = rr.attacks.TPGD(rr.Linf(EPS))(model, images, objective)
    torch.testing.assert_close((found - images).abs(), torch.full_like(images, EPS), atol=1e-6, rtol=0)
    slopes = [ascent(model, x, objective)[1].abs().flatten(1).sum(1) for x in (images, found)]
    assert (slopes[0] < 1e-4 * slopes[1]).all()  # nothing but rounding at the clean image
    restored = rr.attacks.TPGD(rr.Linf(EPS))(Gain(), images, rr.tasks.Restoration().untargeted(images))
    torch.testing.assert_close((restored - images).abs(), torch.full_like(images, EPS), atol=1e-6, rtol=0)


@pytest.mark.parametrize("attack", [rr.attacks.TPGD(rr.Linf(EPS), 1), rr.attacks.Jitter(rr.Linf(EPS), 2)], ids=repr)
def test_seeds(attack: rr.Attack) -> None:
    images, model = photos(1).expand(8, -1, -1, -1), Moody().eval()
    goal = rr.tasks.Segmentation().untargeted(torch.zeros(8, 16, 20, dtype=torch.long))
    first, again, other = (attack.replace(seed=seed)(model, images, goal) for seed in (0, 0, 1))
    with rr.seeded(5):  # without a seed of its own an attack draws from the global generator
        fresh = attack.replace(seed=None)(model, images, goal)
    assert torch.equal(first, again)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, other)
    assert len({tuple(one.flatten().tolist()) for one in fresh}) > 1


def _jitter(shown: torch.Tensor, images: torch.Tensor, objective: rr.Objective, logits: torch.Tensor) -> torch.Tensor:
    attack = rr.attacks.Jitter(rr.Linf(EPS), noise=0.0)
    return _Jittered(attack, [shown])(lambda x: x, images, objective).gain(logits)


def test_jitter_is_its_formula() -> None:
    images = photos(3, 2, 2).double()
    shown = images.clone()
    shown[1:, 0, 0, 0] += 0.25
    logits = torch.tensor([[1.0, 2.0, -4.0], [1.0, 2.0, -4.0], [1.0, 2.0, -4.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    shares = (logits * 10 / 4).softmax(1)
    plain = (shares - F.one_hot(labels, 3)).square().mean(1)
    # wrong without a change, wrong with one of 0.25, right with one
    wanted = plain / torch.tensor([1.0, 0.25, 1.0], dtype=torch.float64)
    torch.testing.assert_close(_jitter(shown, images, LABELS.untargeted(labels), logits), wanted)
    torch.testing.assert_close(_jitter(shown, images, LABELS.targeted(labels), logits), -plain)
    zero = _jitter(shown, images, LABELS.untargeted(labels), torch.zeros(3, 3, dtype=torch.float64))
    torch.testing.assert_close(zero[0], torch.tensor(2 / 9, dtype=torch.float64))


def test_jitter_divides_each_pixel_of_a_map_by_its_own_change() -> None:
    images = photos(1, 1, 2).double()
    shown = images.clone()
    shown[0, 1, 0, 0] += 0.5
    shown[0, 2, 0, 1] -= 0.2
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]], dtype=torch.float64).T[None, :, None]  # [1, 3, 1, 2]
    shares = (logits * 10 / torch.tensor([3.0, 2.0])).softmax(1)
    target = torch.tensor([[[1, 1]]])  # the first pixel is wrong, the second right
    plain = (shares - F.one_hot(target, 3).movedim(-1, 1)).square().mean(1)[0, 0]
    gain = _jitter(shown, images, rr.tasks.Segmentation().untargeted(target), logits)
    torch.testing.assert_close(gain, (plain / torch.tensor([0.5, 1.0])).mean()[None])
    half = _jitter(shown, images, rr.tasks.Segmentation().untargeted(target[..., :1]), logits[..., :1])
    torch.testing.assert_close(half, plain[:1] / 0.5)  # a map of another size: the largest change that falls to a pixel


@pytest.mark.parametrize("label", [0, 1])
def test_the_gradient_of_jitter_equals_finite_differences(label: int) -> None:
    with rr.seeded(3):
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    images = photos(1, 2, 2).double()
    objective = LABELS.untargeted(torch.tensor([label]))
    own = torch.Generator().manual_seed(0)
    shown = images + 0.1 * torch.randn(images.shape, generator=own, dtype=torch.float64)
    value = lambda x: _jitter(x, images, objective, net(x))  # noqa: E731
    assert torch.autograd.gradcheck(value, (shown.requires_grad_(),))


def test_jitter_finds_the_label_that_a_step_away_is_wrong() -> None:
    images = photos(6, 6, 6)
    with rr.seeded(0):
        inner = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))
    objective = LABELS.untargeted(inner(images).argmax(1))
    for model in (inner, lambda x: 1e5 * inner(x)):  # scaled logits hide nothing from it
        assert objective.reached(model(rr.attacks.Jitter(rr.Linf(0.2))(model, images, objective))).all()
    assert torch.equal(rr.attacks.BIM(rr.Linf(0.2))(lambda x: 1e5 * inner(x), images, objective), images)


def test_slips_are_named() -> None:
    for name in ("bim", "mi_fgsm", "tpgd", "jitter"):
        with pytest.raises(ValueError, match="steps: expected"):
            rr.Attack.named(name)(rr.Linf(EPS), steps=0)
        with pytest.raises(TypeError, match="threat: expected"):
            rr.Attack.named(name)(EPS)
    with pytest.raises(ValueError, match="momentum: expected"):
        rr.attacks.MIFGSM(rr.Linf(EPS), momentum=-1.0)
    for wrong in ({"scale": 0.0}, {"noise": -0.1}, {"noise": float("nan")}):
        with pytest.raises(ValueError, match="expected a finite number"):
            rr.attacks.Jitter(rr.Linf(EPS), **wrong)
    with pytest.raises(TypeError, match="fits|expected an objective of classification or segmentation"):
        rr.attacks.Jitter(rr.Linf(EPS))(Gain(), photos(), rr.tasks.Restoration().untargeted(photos()))


@pytest.mark.parametrize("kind", [rr.attacks.Jitter, rr.attacks.UaeRsJitter], ids=lambda kind: kind.__name__)
def test_a_class_that_is_masked_out_hides_no_gradient(kind: type[rr.Attack]) -> None:
    images = photos(2, 6, 6)
    with rr.seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))
    attack = kind(rr.Linf(0.1), steps=3, noise=0.0)
    goal = LABELS.untargeted(model(images).argmax(1))
    found = attack(lambda x: torch.cat([model(x), torch.full((len(x), 1), -torch.inf)], dim=1), images, goal)
    torch.testing.assert_close(found, attack(model, images, goal))
    assert not torch.equal(found, images)
