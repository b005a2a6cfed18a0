"""Attacks against models whose best attack is known, and the promises that no attack may break."""

import pytest
import torch
from toys import Gain, Linear2, Moody, PixelSegmenter, photos

import robustrestore as rr
from robustrestore.search import ascent

EPS = 8 / 255


def _linear() -> tuple[Linear2, torch.Tensor, rr.Objective]:
    images = photos(3, 6, 6)
    model = Linear2()
    labels = torch.zeros(3, dtype=torch.long)
    return model, images, rr.tasks.Classification().untargeted(labels)


@pytest.mark.parametrize(
    "attack",
    [rr.attacks.FGSM(rr.Linf(EPS)), rr.attacks.PGD(rr.Linf(EPS), steps=10), rr.attacks.PGD(rr.Linf(EPS), steps=20, restarts=2)],
    ids=repr,
)
def test_linear_model_linf_optimum(attack: rr.Attack) -> None:
    model, images, objective = _linear()
    best = images - EPS * model.weight.detach().sign()
    torch.testing.assert_close(attack(model, images, objective), best, atol=1e-6, rtol=0)


def test_linear_model_l2_optimum() -> None:
    model, images, objective = _linear()
    best = images - 0.1 * model.weight.detach() / model.weight.detach().norm()
    found = rr.attacks.PGD(rr.L2(0.1), steps=80)(model, images, objective)
    torch.testing.assert_close(found, best, atol=1e-4, rtol=0)


def test_targeted_and_mirrored_are_objectives() -> None:
    model, images, _ = _linear()
    labels = torch.zeros(3, dtype=torch.long)
    task = rr.tasks.Classification()
    towards = images + EPS * model.weight.detach().sign()
    attack = rr.attacks.PGD(rr.Linf(EPS), steps=10)
    torch.testing.assert_close(attack(model, images, task.targeted(labels)), towards, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        rr.attacks.AMA(rr.Linf(EPS), steps=10)(model, images, task.untargeted(labels)), towards, atol=1e-6, rtol=0
    )


def test_one_step_mirror_is_the_negative_on_interior_pixels() -> None:
    images, model = photos(2), Moody().eval()
    objective = rr.tasks.Segmentation().untargeted(torch.randint(0, 3, (2, 16, 20)))
    threat = rr.Linf(2 / 255)
    _, up = ascent(model, images, objective)
    _, down = ascent(model, images, objective.mirrored())
    torch.testing.assert_close(threat.steepest(up), -threat.steepest(down))


def test_losses_are_ordered_mirror_clean_attack() -> None:
    images, model, task = photos(2), Moody().eval(), rr.tasks.Segmentation()
    target = torch.randint(0, 3, (2, 16, 20), generator=torch.Generator().manual_seed(0))
    goal, threat = task.untargeted(target), rr.Linf(4 / 255)
    easy = task.loss(model(rr.attacks.AMA(threat)(model, images, goal)), target)
    hard = task.loss(model(rr.attacks.PGD(threat)(model, images, goal)), target)
    clean = task.loss(model(images), target)
    assert (easy < clean).all()
    assert (clean < hard).all()


def test_segmenter_optimum_and_ignored_pixels() -> None:
    images, model = photos(2), PixelSegmenter()
    target = model(images).argmax(1)
    target[:, :4] = 255
    found = rr.attacks.PGD(rr.Linf(EPS), steps=12)(model, images, rr.tasks.Segmentation().untargeted(target))
    sign = torch.where(target == 0, -1.0, 1.0)
    best = images.clone()
    best[:, 0] += EPS * sign
    best[:, 1] -= EPS * sign
    torch.testing.assert_close(found[:, :2, 4:], best[:, :2, 4:], atol=1e-6, rtol=0)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rr.tasks.Segmentation().loss(model(leaf), target).sum(), leaf)
    assert (gradient[:, :, :4] == 0).all()


def test_all_ignored_map_changes_nothing() -> None:
    images = photos(1)
    target = torch.full((1, 16, 20), 255)
    found = rr.attacks.PGD(rr.Linf(EPS), steps=3)(PixelSegmenter(), images, rr.tasks.Segmentation().untargeted(target))
    assert torch.equal(found, images)


def test_restorer_optimum_and_the_zero_gradient_at_the_clean_output() -> None:
    images, model = photos(2), Gain(1.0)
    objective = rr.tasks.Restoration().untargeted(images)  # the model's own clean output
    assert torch.equal(rr.attacks.FGSM(rr.Linf(EPS))(model, images, objective), images)
    found = rr.attacks.PGD(rr.Linf(EPS), steps=20)(model, images, objective)
    torch.testing.assert_close((found - images).abs(), torch.full_like(images, EPS), atol=1e-6, rtol=0)


def test_gain_never_falls_with_steps_and_rises_with_eps() -> None:
    images, model = photos(3), Moody().eval()
    goal = rr.tasks.Segmentation().untargeted(torch.randint(0, 3, (3, 16, 20), generator=torch.Generator().manual_seed(1)))

    def gain(eps: float, steps: int) -> torch.Tensor:
        attack = rr.attacks.PGD(rr.Linf(eps), steps=steps, step=EPS / 8 if eps == EPS else None)
        with torch.no_grad():
            return goal.gain(model(attack(model, images, goal)))

    by_steps = torch.stack([gain(EPS, steps) for steps in (1, 3, 9)])
    assert (by_steps.diff(dim=0) >= -1e-6).all()
    by_eps = torch.stack([gain(k / 255, 8).mean() for k in (0, 2, 8)])
    assert (by_eps.diff() > 0).all()


@pytest.mark.parametrize("threat", [rr.Linf(EPS), rr.L2(0.3)], ids=repr)
@pytest.mark.parametrize("task", ["classification", "segmentation", "restoration"])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "ama"])
def test_promises_for_every_task(name: str, task: str, threat: rr.Threat) -> None:
    own = torch.Generator().manual_seed(2)
    images = torch.rand(2, 3, 6, 6, generator=own)
    images[0, :, 0] = 0
    images[0, :, 1] = 1
    model, target = {
        "classification": (Linear2(), torch.tensor([0, 1])),
        "segmentation": (Moody(), torch.randint(0, 3, (2, 6, 6), generator=own)),
        "restoration": (Moody(), torch.rand(2, 3, 6, 6, generator=own)),
    }[task]
    attack = rr.Attack.named(name)(threat)
    rr.checks.check_attack(attack, model, images, rr.Task.named(task)().untargeted(target))


def test_model_is_handed_back_as_it_was_also_after_an_error() -> None:
    model = Moody().train()
    model.drop.eval()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    images = photos(2)
    goal = rr.tasks.Segmentation().untargeted(torch.zeros(2, 16, 20, dtype=torch.long))
    rr.attacks.PGD(rr.Linf(EPS), steps=2)(model, images, goal)
    with pytest.raises(ValueError, match="expected logits"):
        rr.attacks.PGD(rr.Linf(EPS), steps=2)(model, images, rr.tasks.Classification().untargeted(torch.tensor([0, 1])))
    assert model.training
    assert model.norm.training
    assert not model.drop.training
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    assert all(p.grad is None for p in model.parameters())


def test_works_under_inference_mode_and_with_a_plain_function() -> None:
    model, images, objective = _linear()
    with torch.inference_mode():
        found = rr.attacks.PGD(rr.Linf(EPS), steps=5)(model, images, objective)
    assert not torch.equal(found, images)
    assert torch.equal(found, rr.attacks.PGD(rr.Linf(EPS), steps=5)(lambda x: model(x), images, objective))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_stay_in_the_ball(dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(4)).to(dtype)
    model = Linear2().to(dtype)
    found = rr.attacks.PGD(rr.Linf(EPS), steps=4)(model, images, rr.tasks.Classification().untargeted(torch.tensor([0, 1])))
    assert found.dtype == dtype
    assert float((found.double() - images.double()).abs().max()) <= EPS + 1e-6
    assert not torch.equal(found, images)


def test_eps_zero_is_a_no_op() -> None:
    model, images, objective = _linear()
    for attack in (rr.attacks.PGD(rr.Linf(0.0)), rr.attacks.FGSM(rr.Linf(0.0)), rr.attacks.PGD(rr.L2(0.0))):
        assert torch.equal(attack(model, images, objective), images)


def test_seed_repeats_and_differs() -> None:
    images, model = photos(2), Moody().eval()
    goal = rr.tasks.Restoration().untargeted(images)
    runs = [rr.attacks.PGD(rr.Linf(EPS), steps=1, seed=seed)(model, images, goal) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_an_attack_does_not_depend_on_batch_mates() -> None:
    images, model = photos(3), Moody().eval()
    attack = rr.attacks.PGD(rr.L2(0.3), steps=2, restarts=2)
    task = rr.tasks.Restoration()
    whole = attack(model, images, task.untargeted(images))
    single = torch.cat([attack(model, image, task.untargeted(image)) for image in images.split(1)])
    torch.testing.assert_close(whole, single, atol=1e-5, rtol=0)
    fresh = rr.attacks.PGD(rr.Linf(EPS), steps=1, seed=None)
    same = images[:1].expand(2, -1, -1, -1)
    found = fresh(model, same, task.untargeted(same))
    assert not torch.equal(found[0], found[1])


class Noisy(torch.nn.Module):
    """A linear classifier behind fresh noise: one gradient sample often points the wrong way."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Linear2()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scale = 1 + 4 * torch.randn(len(images), 1)
        return self.inner(images) * scale


def test_eot_beats_a_single_sample_on_a_random_model() -> None:
    images, labels = photos(1, 6, 6), torch.tensor([0])
    objective, model = rr.tasks.Classification().untargeted(labels), Noisy()
    best = images - EPS * model.inner.weight.detach().sign()
    agree = {1: 0.0, 30: 0.0}
    for seed in range(20):
        for samples in agree:
            with rr.seeded(seed):
                _, gradient = ascent(model, images, objective, samples)
            agree[samples] += float(((gradient.sign() == (best - images).sign()).float()).mean()) / 20
    assert agree[30] >= 0.95
    assert agree[30] > agree[1]


def test_a_model_without_gradient_says_what_to_do() -> None:
    _, images, objective = _linear()
    with pytest.raises(ValueError, match="straight_through"):
        rr.attacks.PGD(rr.Linf(EPS))(lambda x: x.detach().flatten(1)[:, :2], images, objective)


def test_the_usual_slips_are_named() -> None:
    model, images, _ = _linear()
    with pytest.raises(TypeError, match=r"expected a Threat, got float: write rr\.Linf\(0\.1\)"):
        rr.attacks.PGD(0.1)
    with pytest.raises(ValueError, match=r"write Linf\(8 / 255\)"):
        rr.Linf(8)
    with pytest.raises(TypeError, match=r"task\.untargeted\(labels\)"):
        rr.attacks.PGD(rr.Linf(EPS))(model, images, torch.tensor([0, 1, 0]))
    with pytest.raises(TypeError, match="the class Blur: call it"):
        rr.DefendedPipeline(model, rr.purifiers.Blur)


def test_bad_input_is_refused() -> None:
    model, images, objective = _linear()
    attack = rr.attacks.PGD(rr.Linf(EPS))
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        attack(model, images * 255, objective)
    with pytest.raises(ValueError, match="3 targets"):
        attack(model, images, rr.tasks.Classification().untargeted(torch.tensor([0])))
    with pytest.raises(ValueError, match="steps: expected"):
        rr.attacks.PGD(rr.Linf(EPS), steps=0)
    with pytest.raises(ValueError, match="step: expected"):
        rr.attacks.PGD(rr.Linf(EPS), step=-1.0)


def test_nan_gradients_do_not_spread() -> None:
    def model(images: torch.Tensor) -> torch.Tensor:
        score = (images[:, 0, 0, 0] - images[:, 0, 0, 0].detach()).sqrt() + images.flatten(1).mean(1) - 0.5
        return torch.stack([score, -score], dim=1)

    images = photos(2, 6, 6)
    found = rr.attacks.PGD(rr.Linf(EPS), steps=12)(model, images, rr.tasks.Classification().untargeted(torch.tensor([0, 0])))
    assert found.isfinite().all()
    assert (found[:, 1] < images[:, 1]).all()


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    model, images, _ = _linear()
    labels = torch.zeros(3, dtype=torch.long, device="cuda")
    found = rr.attacks.PGD(rr.Linf(EPS), steps=10)(model.cuda(), images.cuda(), rr.tasks.Classification().untargeted(labels))
    best = images.cuda() - EPS * model.weight.detach().sign()
    torch.testing.assert_close(found, best, atol=1e-6, rtol=0)


def test_a_detached_stage_before_trainable_weights_is_named_and_inference_labels_work() -> None:
    _, images, _ = _linear()
    model, task = Linear2(), rr.tasks.Classification()
    with pytest.raises(ValueError, match="straight_through"):
        rr.attacks.PGD(rr.Linf(EPS))(lambda x: model(x.detach()), images, task.untargeted(torch.tensor([0, 0, 0])))
    with torch.inference_mode():
        labels = torch.tensor([0, 0, 0])
    rr.attacks.PGD(rr.Linf(EPS), steps=1)(model, images, task.untargeted(labels))


def test_restarts_without_an_image_left_ask_nothing() -> None:
    images, model, asked = photos(3, 6, 6), Linear2(), []

    def counting(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return model(x)

    goal = rr.tasks.Classification().untargeted(model(images).argmax(1)).judged()
    found = rr.attacks.PGD(rr.Linf(0.5), steps=4, restarts=3)(counting, images, goal)
    assert goal.reached(model(found)).all()
    assert min(asked) > 0
