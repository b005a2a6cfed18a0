"""The seven attacks of UAE-RS: closed forms of their step, 8-bit images, the traps of their code, and the mixed images."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from toys import Linear2, Moody, PixelSegmenter, photos

import robustrestore as rr
from robustrestore import checks
from robustrestore.attacks._uaers import PUBLISHED, STEPS, rounded
from robustrestore.attacks.uaers_mix import IMAGENET_MEAN, SCALES, WEIGHT, pixel_mean, strips

STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
MEAN = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
TASK = rr.tasks.Classification()
PLAIN = [rr.attacks.UaeRsFGSM, rr.attacks.UaeRsIFGSM, rr.attacks.UaeRsCW, rr.attacks.UaeRsTPGD, rr.attacks.UaeRsJitter]


class Steep(nn.Module):
    """Three classes, linear, with logits far apart in scale per image pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(8)))

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", images - 0.5, self.weight)


class First(nn.Module):
    """A linear feature map, so that the mixed attack's gradient is known."""

    def __init__(self, padding: int = 1) -> None:
        super().__init__()
        self.padding = padding
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(9)))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, self.weight, padding=self.padding)


def _eight(images: Tensor) -> Tensor:
    return (images * 255).round() / 255


def _linear(count: int = 3) -> tuple[Linear2, Tensor, rr.Objective]:
    return Linear2(), _eight(photos(count, 6, 6)), TASK.untargeted(torch.zeros(count, dtype=torch.long))


def _mixes(**more: object) -> list[rr.Attack]:
    samples = rr.attacks.Samples(photos(3, 6, 6))
    return [kind(rr.NormalisedLinf(), First(), samples, **more) for kind in (rr.attacks.UaeRsMixup, rr.attacks.UaeRsMixcut)]


def test_constants_are_the_published_ones() -> None:
    assert (PUBLISHED.eps, PUBLISHED.std) == (1.0, [0.229, 0.224, 0.225])
    assert (STEPS, SCALES, WEIGHT, IMAGENET_MEAN) == (5, 5, 1e-3, (0.485, 0.456, 0.406))
    for kind in PLAIN:
        made = kind()
        assert (made.bits, made.threat.eps, getattr(made, "step", None)) == (8, 1.0, None)
    jitter = rr.attacks.UaeRsJitter()
    assert (jitter.scale, jitter.noise) == (10.0, 0.1)
    ball = PUBLISHED.limit(torch.ones(1, 3, 1, 1)).flatten() * 255
    assert ball.round().int().tolist() == [58, 57, 57]


def test_fgsm_scales_by_the_largest_entry_of_the_normalised_gradient() -> None:
    model, images, objective = _linear()
    scaled = -model.weight.detach() * STD  # the gradient in normalised space, up to a positive factor
    step = STD * scaled / scaled.abs().max()
    best = _eight((images + step).clamp(0, 1))
    found = rr.attacks.UaeRsFGSM()(model, images, objective)
    torch.testing.assert_close(found, best, atol=1e-6, rtol=0)
    sign = (images - STD * model.weight.detach().sign()).clamp(0, 1)
    assert (found - sign).abs().mean() > 0.05  # which is not a sign step
    linf = rr.attacks.UaeRsFGSM(rr.Linf(8 / 255), bits=None)(model, images, objective)
    weight = model.weight.detach()
    torch.testing.assert_close(linf, images - 8 / 255 * weight / weight.abs().max(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [rr.attacks.UaeRsIFGSM, rr.attacks.UaeRsCW], ids=lambda k: k.__name__)
def test_five_steps_are_five_equal_ones_cut_to_the_box_on_a_linear_model(kind: type[rr.Attack]) -> None:
    model, images, objective = _linear()
    scaled = -model.weight.detach() * STD
    now = images
    for _ in range(5):
        moved = now + STD * scaled / scaled.abs().max()
        now = (images + torch.minimum(torch.maximum(moved - images, -STD), STD)).clamp(0, 1)
    found = kind(bits=None)(model, images, objective)
    torch.testing.assert_close(found, now, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", PLAIN, ids=lambda k: k.__name__)
def test_images_are_eight_bit_inside_the_ball_and_worse_for_the_model(kind: type[rr.Attack]) -> None:
    model, images, objective = Steep(), _eight(photos(3, 6, 6)), TASK.untargeted(torch.tensor([0, 1, 2]))
    for threat in (rr.NormalisedLinf(), rr.NormalisedLinf(0.1), rr.Linf(3.4 / 255), rr.L2(0.3)):
        found = kind(threat)(model, images, objective)
        torch.testing.assert_close(found, _eight(found), atol=1e-6, rtol=0)
        checks.check_attack(kind(threat), model, images, objective)
        assert (objective.gain(model(found)) > objective.gain(model(images))).any()


def test_rounding_prefers_the_nearest_level_and_never_leaves_the_ball() -> None:
    original, threat = torch.tensor([100.0, 100.0, 100.0, 100.0]).view(1, 1, 1, 4) / 255, rr.Linf(2.6 / 255)
    images = original + torch.tensor([0.4, 1.6, 2.6, -2.6]).view(1, 1, 1, 4) / 255
    levels = rounded(images, original, threat, 255) * 255
    torch.testing.assert_close(levels.flatten(), torch.tensor([100.0, 102.0, 102.0, 98.0]))
    between = torch.full((1, 1, 1, 1), 100.5 / 255)
    torch.testing.assert_close(rounded(between, between, rr.Linf(0.1 / 255), 255), between, atol=0.11 / 255, rtol=0)
    assert torch.equal(rounded(between, between, rr.Linf(0.0), 255), between)


@pytest.mark.parametrize("kind", PLAIN, ids=lambda k: k.__name__)
def test_no_batch_mate_matters(kind: type[rr.Attack]) -> None:
    model, images, labels = Steep(), _eight(photos(3, 6, 6)), torch.tensor([0, 1, 2])
    whole = kind()(model, images, TASK.untargeted(labels))
    for k in range(3):
        single = kind()(model, images[k : k + 1], TASK.untargeted(labels[k : k + 1]))
        torch.testing.assert_close(whole[k : k + 1], single, atol=1e-6, rtol=0)


def test_cw_leaves_the_true_score_out_where_all_scores_are_negative() -> None:
    """Multiplied by 0 the true score would win the maximum among negative ones, and push the wrong way or nowhere."""

    def model(images: Tensor) -> Tensor:
        first = images[:, 0].mean((1, 2))
        return torch.stack([-5 - 0 * first, -6 + first, -9 + 2 * images[:, 1].mean((1, 2))], dim=1)

    images = _eight(photos(2, 6, 6))
    found = rr.attacks.UaeRsCW()(model, images, TASK.untargeted(torch.zeros(2, dtype=torch.long)))
    assert (found[:, 0] > images[:, 0]).all()
    assert torch.equal(found[:, 1:], images[:, 1:])


def test_tpgd_starts_off_the_clean_image_and_needs_no_label() -> None:
    model, images = Steep(), _eight(photos(2, 6, 6))
    with torch.no_grad():
        answer = model(images).argmax(1)
    goal = rr.losses.Divergence()(model, images, TASK.untargeted(answer))  # keeps by it too: a surer answer counts
    found = rr.attacks.UaeRsTPGD()(model, images, goal)
    assert (goal.gain(model(found)) > 1e-3).all()
    other = dataclasses.replace(goal, target=1 - answer.clamp(max=1))
    assert torch.equal(found, rr.attacks.UaeRsTPGD()(model, images, other))
    assert not torch.equal(found, rr.attacks.UaeRsTPGD(seed=1)(model, images, goal))


def test_jitter_divides_by_the_size_once_wrong_and_keeps_its_gradient() -> None:
    asked: list[Tensor] = []

    class Watched(Steep):
        def forward(self, images: Tensor) -> Tensor:
            asked.append(images.detach().clone())
            return super().forward(images)

    model, images, wrong = Watched(), _eight(photos(1, 6, 6)), torch.tensor([0])
    with torch.no_grad():
        wrong[0] = int(model(images).argmin(1))  # wrong from the start
    asked.clear()
    attack = rr.attacks.UaeRsJitter(steps=2, noise=0.0, bits=None)
    attack(model, images, TASK.untargeted(wrong))
    first, second, third = asked

    def error(x: Tensor) -> Tensor:
        z = Steep()(x)
        shares = (10 * z / z.abs().amax(1, keepdim=True)).softmax(1)
        return (shares - nn.functional.one_hot(wrong, 3)).square().mean(1)

    def step(x: Tensor, divided: bool) -> Tensor:
        leaf = x.clone().requires_grad_()
        value = error(leaf) / ((leaf - images) / STD).abs().amax() if divided else error(leaf)
        scaled = torch.autograd.grad(value.sum(), leaf)[0] * STD
        return PUBLISHED.project(x + STD * scaled / scaled.abs().max(), images)

    torch.testing.assert_close(first, images)
    torch.testing.assert_close(second, step(first, divided=False), atol=1e-5, rtol=0)
    torch.testing.assert_close(third, step(second, divided=True), atol=1e-4, rtol=0)
    assert (third - step(second, divided=False)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", PLAIN, ids=lambda k: k.__name__)
def test_targeted_goals_are_approached(kind: type[rr.Attack]) -> None:
    model, images, objective = Steep(), _eight(photos(3, 6, 6)), TASK.targeted(torch.tensor([2, 0, 1]))
    checks.check_attack(kind(), model, images, objective)
    if kind is not rr.attacks.UaeRsTPGD:  # which leads away from the clean answer, wherever that is
        nearer = objective.gain(model(kind()(model, images, objective))) > objective.gain(model(images)) + 1
        assert nearer.sum() >= 2  # Jitter's softmax of scaled scores is flat far from the wanted class


def test_jitter_noise_follows_the_seed() -> None:
    model, images, objective = Steep(), _eight(photos(2, 6, 6)), TASK.untargeted(torch.tensor([0, 1]))
    runs = [rr.attacks.UaeRsJitter(seed=seed, steps=3, noise=1.0)(model, images, objective) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_mixed_images() -> None:
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 8, 5) / 4
    assert (pixel_mean(images) == 0.25).all()
    mixed = strips(images)
    assert mixed.shape == (3, 8, 5)
    assert (mixed[0, :, 0] * 4).int().tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    ten = strips(torch.arange(10.0).view(10, 1, 1, 1).expand(10, 3, 256, 4) / 10)
    assert {int((ten[0, :, 0] * 10).round().eq(k).sum()) for k in range(10)} == {25, 26}
    assert torch.equal(strips(photos(1, 6, 6)), photos(1, 6, 6)[0])
    assert strips(photos(9, 4, 4)).shape == (3, 4, 4)


@pytest.mark.parametrize(("place", "mix"), [(0, pixel_mean), (1, strips)], ids=["mixup", "mixcut"])
def test_mix_climbs_an_inner_product_of_features_over_five_scales(place: int, mix: object) -> None:
    asked: list[Tensor] = []

    class Watched(Linear2):
        def forward(self, images: Tensor) -> Tensor:
            asked.append(images.detach().clone())
            return super().forward(images)

    attack, features, model = _mixes(bits=None, steps=2)[place], First(), Linear2()
    images, objective = _eight(photos(1, 6, 6)), TASK.untargeted(torch.tensor([0]))
    wanted = features(mix(photos(3, 6, 6))[None]).detach()  # type: ignore[operator]

    def gradient(x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        total = torch.zeros(())
        for k in range(5):
            scaled = (leaf - MEAN) / STD / 2**k * STD + MEAN  # halved in normalised space
            kl = nn.functional.kl_div(features(scaled), wanted, reduction="none").mean()  # NaN, with a finite slope
            total = total + 1e-3 * TASK.loss(model(scaled), torch.tensor([0])).sum() - kl
        return torch.autograd.grad(total, leaf)[0]

    momentum, now = torch.zeros_like(images), images
    shown = []
    for _ in range(2):
        slope = gradient(now)
        momentum = momentum + slope / slope.abs().sum()
        scaled = momentum * STD
        now = PUBLISHED.project(now + STD * scaled / scaled.abs().max(), images)
        shown.append(now)
    attack(Watched(), images, objective)
    torch.testing.assert_close(asked[0], images)
    torch.testing.assert_close(asked[5], shown[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(asked[10], shown[1], atol=1e-5, rtol=0)


def test_mix_moves_towards_the_mixed_features_with_any_size_and_task() -> None:
    images, features = _eight(photos(2, 9, 13)), First(padding=0)
    target = torch.randint(0, 2, (2, 9, 13), generator=torch.Generator().manual_seed(0))
    goal = rr.tasks.Segmentation().untargeted(target)
    samples = rr.attacks.Samples(photos(4, 6, 6))
    attack = rr.attacks.UaeRsMixcut(rr.Linf(16 / 255), features, samples)
    checks.check_attack(attack, PixelSegmenter(), images, goal)
    with rr.seeded(0):
        model = Moody()
    for made in _mixes():
        checks.check_attack(made, model, images, rr.tasks.Segmentation().untargeted(target))


def test_mix_holds_modules_saves_and_leaves_their_modes() -> None:
    for made in _mixes():
        features = made.features.train()  # type: ignore[attr-defined]
        checks.check_component(made, {"features": features, "samples": made.samples})  # type: ignore[attr-defined]
        model, images, objective = _linear(1)
        made(model, images, objective)
        assert features.training
        assert all(p.grad is None for p in features.parameters())


def test_zero_gradients_and_eps_zero_change_nothing() -> None:
    images, objective = _eight(photos(2, 6, 6)), TASK.untargeted(torch.tensor([0, 1]))

    def still(found: Tensor) -> Tensor:
        return 0 * found.flatten(1)[:, :2]

    for kind in PLAIN:
        found = kind()(still, images, objective)
        assert found.isfinite().all()
        assert torch.equal(kind(rr.NormalisedLinf(0.0))(Linear2(), images, objective), images)


@pytest.mark.parametrize("kind", PLAIN, ids=lambda k: k.__name__)
def test_segmentation_with_ignored_pixels(kind: type[rr.Attack]) -> None:
    images, model = _eight(photos(2)), PixelSegmenter()
    target = model(images).argmax(1)
    target[:, :4] = 255
    goal = rr.tasks.Segmentation().untargeted(target)
    found = kind(rr.Linf(8 / 255), bits=None)(model, images, goal)
    assert (goal.gain(model(found)) > goal.gain(model(images))).all()
    if kind is not rr.attacks.UaeRsTPGD:  # which starts off the image everywhere
        assert torch.equal(found[:, :, :4], images[:, :, :4])


def test_slips_are_named() -> None:
    restoring = rr.tasks.Restoration().untargeted(photos(1, 6, 6))
    for attack in (rr.attacks.UaeRsCW(), rr.attacks.UaeRsTPGD(), rr.attacks.UaeRsJitter()):
        with pytest.raises(TypeError, match="expected an objective of classification or segmentation"):
            attack(nn.Identity(), photos(1, 6, 6), restoring)
    with pytest.raises(ValueError, match="steps: expected"):
        rr.attacks.UaeRsIFGSM(steps=0)
    with pytest.raises(ValueError, match="bits: expected"):
        rr.attacks.UaeRsFGSM(bits=0)
    with pytest.raises(ValueError, match="step: expected"):
        rr.attacks.UaeRsCW(step=0.0)
    with pytest.raises(ValueError, match="scale, noise: expected"):
        rr.attacks.UaeRsJitter(scale=0)
    with pytest.raises(TypeError, match=r"samples: expected a Samples, got Tensor.*rr\.attacks\.Samples"):
        rr.attacks.UaeRsMixup(rr.Linf(0.1), First(), photos(1))
    with pytest.raises(TypeError, match="features: expected a Module"):
        rr.attacks.UaeRsMixup(rr.Linf(0.1), torch.relu, rr.attacks.Samples(photos(1)))
    with pytest.raises(ValueError, match="samples: expected at least one"):
        rr.attacks.Samples(photos(1)[:0])
