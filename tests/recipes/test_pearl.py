"""PEARL: the mechanics of the checklist, by number; the three readings of the mirror; a defence that learns."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from toys import PixelSegmenter, photos
from toys_recipes import ATTACK, PLAN, TASK, Streets, rainproof, segmenter, streets

import robustrestore as rr
from robustrestore.recipes import CleanGoal, MirrorBatch, MirrorGoal, MirrorInput
from robustrestore.weights import fingerprint

EPS = 8 / 255
AMA = rr.attacks.AMA(rr.Linf(EPS), steps=3)
NAA = rr.attacks.NAA(rr.Linf(EPS), steps=3)


def _loss(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        return TASK.loss(model(images), target)


@pytest.mark.parametrize("attack", [NAA, AMA], ids=["naa", "ama"])
def test_pearl_1_attacks_stay_in_the_ball_and_the_box_and_eps_0_changes_nothing(attack: rr.Attack) -> None:
    item, pipeline = streets()[:], rainproof().eval()
    images = item["images"].double()
    images[:, :, 0] = 0.0  # pixels on the edge of the box
    goal = TASK.untargeted(item["target"])
    for model in (pipeline.double(), pipeline.model):
        found = attack(model, images, goal)
        assert found.shape == images.shape
        assert (found.dtype, found.device) == (images.dtype, images.device)
        assert float((found - images).abs().max()) <= EPS + 1e-6
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        assert torch.equal(attack.replace(threat=rr.Linf(0.0))(model, images, goal), images)


def test_pearl_2_one_step_of_the_mirror_is_minus_one_step_of_the_attack() -> None:
    model, images = segmenter(), photos(3, 16, 16)
    goal = TASK.untargeted(images.argmax(1))
    down = rr.attacks.AMA(rr.Linf(EPS), steps=1, step=EPS)(model, images, goal) - images
    up = rr.attacks.PGD(rr.Linf(EPS), steps=1, step=EPS, random_start=False)(model, images, goal) - images
    assert float(up.abs().max()) == pytest.approx(EPS, abs=1e-6)
    torch.testing.assert_close(down, -up, atol=1e-6, rtol=0)


def test_pearl_3_the_mirror_lowers_the_loss_of_every_image_and_the_attack_raises_it() -> None:
    item, model = streets()[:], segmenter()
    clean, target = item["clean"], item["target"]
    goal, before = TASK.untargeted(target), _loss(model, item["clean"], target)
    assert bool((_loss(model, AMA(model, clean, goal), target) < before).all())
    assert bool((_loss(model, NAA(model, clean, goal), target) > before).all())


def test_pearl_4_ignored_pixels_give_no_gradient_and_an_ignored_map_no_change() -> None:
    """The segmenter looks at one pixel each, so an ignored pixel stays as it is."""
    model, images = PixelSegmenter(), photos(2, 16, 16)
    target = (images[:, 0] < images[:, 1]).long()
    target[0, :8], target[1] = 255, 255
    for attack in (AMA, rr.attacks.BIM(rr.Linf(EPS), steps=3)):
        found = attack(model, images, TASK.untargeted(target))
        assert torch.equal(found[0, :, :8], images[0, :, :8])
        assert float((found[0, :2, 8:] - images[0, :2, 8:]).abs().min()) > 0
        assert torch.equal(found[1], images[1])
    pipeline = rainproof()
    batch = rr.Batch(photos(2, 16, 16), torch.full((2, 16, 16), 255), photos(2, 16, 16))
    losses = rr.recipes.PEARL(pipeline, TASK, ATTACK, MirrorGoal(AMA), weight=1.0)(batch)
    assert float(losses["task"]) == 0
    assert bool(losses["loss"].isfinite())


@pytest.mark.parametrize("goal", [CleanGoal(), MirrorGoal(AMA), MirrorInput(AMA), MirrorBatch(AMA)], ids=lambda g: g.name)
def test_pearl_5_model_and_purifier_are_the_same_bit_for_bit(goal: rr.recipes.Goal) -> None:
    pipeline = rainproof()
    before = [fingerprint(part) for part in (pipeline.model, *pipeline.stages)]
    rr.fit(rr.recipes.PEARL(pipeline, TASK, ATTACK, goal, weight=0.1), streets(), PLAN, quiet=True)
    after = [fingerprint(part) for part in (pipeline.model, *pipeline.stages)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False]


def test_pearl_6_inference_is_the_pipeline_takes_no_label_and_repeats_itself() -> None:
    pipeline, images = rainproof(), streets()[:]["images"]
    rr.fit(rr.recipes.PEARL(pipeline, TASK, ATTACK, MirrorGoal(AMA)), streets(), PLAN, quiet=True)
    pipeline.eval()
    with torch.no_grad():
        found = pipeline(images)
        torch.testing.assert_close(found, pipeline.model(pipeline.stages[1](pipeline.stages[0](images))))
        assert torch.equal(found, pipeline(images))


class _Pairs(Streets):
    """The same streets for plain training of a restorer: the clean image is the target."""

    def __getitem__(self, place: int | slice) -> dict[str, Tensor]:
        item = super().__getitem__(place)
        return {"images": item["images"], "target": item["clean"]}


def test_pearl_7_clean_goal_and_eps_0_is_plain_training_of_the_restorer() -> None:
    first = rr.DefendedPipeline(segmenter(), [rainproof().stages[1]])
    second = rainproof().stages[1]
    zero = ATTACK.replace(threat=rr.Linf(0.0))
    histories = [
        rr.fit(rr.recipes.PEARL(first, TASK, zero), streets(), PLAN, quiet=True),
        rr.fit(rr.recipes.Plain(second, rr.tasks.Restoration()), _Pairs(), PLAN, quiet=True),
    ]
    assert histories[0].rows == histories[1].rows
    assert fingerprint(first.stages[0]) == fingerprint(second)


@pytest.mark.parametrize("reading", [MirrorGoal, MirrorInput, MirrorBatch])
def test_pearl_8_cached_mirrors_are_those_made_on_the_fly(reading: type) -> None:
    found = []
    for cached in (False, True):
        pipeline = rainproof()
        goal = reading(AMA, cached=cached)
        history = rr.fit(rr.recipes.PEARL(pipeline, TASK, ATTACK, goal), streets(), PLAN.replace(steps=6), quiet=True)
        found.append((pipeline.stages[1].state_dict(), history.rows))
    assert found[0][1] == found[1][1]
    for name, tensor in found[0][0].items():
        torch.testing.assert_close(tensor, found[1][0][name])
    assert len(goal._known) == len(streets())


def test_the_cache_asks_once_an_image_and_again_when_the_model_has_changed() -> None:
    model, item = segmenter(), streets()[:]
    calls: list[int] = []
    model.register_forward_hook(lambda module, inputs, outputs: calls.append(len(inputs[0])))
    goal = MirrorGoal(AMA, cached=True)
    batch = rr.Batch(**item, index=torch.arange(8))
    first = goal.run(model, TASK, batch).wanted
    asked = len(calls)
    part = rr.Batch(*(t[[3, 1]] for t in (item["images"], item["target"], item["clean"])), index=torch.tensor([3, 1]))
    assert torch.equal(goal.run(model, TASK, part).wanted, first[[3, 1]])
    assert len(calls) == asked
    with torch.no_grad():
        model[0].bias += 1.0
    goal.run(model, TASK, part)
    assert len(calls) > asked
    assert len(goal._known) == 2


def test_a_second_data_set_for_a_cache_is_named_as_such() -> None:
    goal, item, index = MirrorGoal(AMA, cached=True), streets()[:], torch.arange(8)
    goal.run(segmenter(), TASK, rr.Batch(**item, index=index))
    model = segmenter()
    goal.run(model, TASK, rr.Batch(**item, index=index))
    other = {**item, "clean": item["clean"].flip(-1)}
    with pytest.raises(ValueError, match="make a new goal if it is another one than in an earlier fit"):
        goal.run(model, TASK, rr.Batch(**other, index=index))


class _Flipped(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        side = -1 if bool(torch.rand(()) < 0.5) else 1
        return {name: field if side == 1 else field.flip(-1) for name, field in streets()[place].items()}


def test_a_cache_names_data_that_change_from_one_reading_to_the_next() -> None:
    recipe = rr.recipes.PEARL(rainproof(), TASK, ATTACK, MirrorGoal(AMA, cached=True))
    with pytest.raises(ValueError, match="cached=False if the data set augments; make a new goal if it is another one"):
        rr.fit(recipe, _Flipped(), PLAN.replace(steps=20), quiet=True)
    rr.fit(rr.recipes.PEARL(rainproof(), TASK, ATTACK, MirrorGoal(AMA)), _Flipped(), PLAN, quiet=True)
    with pytest.raises(ValueError, match="with an index"):
        MirrorGoal(AMA, cached=True).run(segmenter(), TASK, rr.Batch(**streets()[:]))


def _by_hand(guess: Tensor, target: Tensor, classes: int) -> tuple[float, float]:
    """Mean IoU over classes that occur, and the share of right pixels, from accumulated histograms (numpy's way)."""
    valid = target != 255
    table = torch.bincount(target[valid] * classes + guess[valid], minlength=classes**2).view(classes, classes).double()
    inside, union = table.diagonal(), table.sum(0) + table.sum(1) - table.diagonal()
    return float((inside / union)[union > 0].mean()), float(inside.sum() / table.sum())


def test_pearl_9_metrics_agree_with_histograms_and_with_torchmetrics() -> None:
    """A class that is neither in the labels nor predicted is left out of the mean; DDC-AT would count it as 0."""
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

    own = torch.Generator().manual_seed(4)
    logits, target = torch.randn(5, 6, 9, 7, generator=own), torch.randint(0, 4, (5, 9, 7), generator=own)
    logits[:, 5] = -9.0  # class 5 does not occur, class 4 is predicted only
    target[torch.rand(5, 9, 7, generator=own) < 0.2] = 255
    loader = [rr.Batch(logits, target)]
    found = [float(m.summarise(m.measure(logits, loader[0].truth()).double().sum(0).numpy())) for m in TASK.metrics()]
    assert found == pytest.approx(_by_hand(logits.argmax(1), target, 6))
    valid = target != 255
    theirs = multiclass_accuracy(logits.argmax(1)[valid], target[valid], 6, average="micro")
    assert found[1] == pytest.approx(float(theirs), abs=1e-6)
    each = multiclass_jaccard_index(logits.argmax(1), target, 6, average="none", ignore_index=255)
    assert found[0] == pytest.approx(float(each[:5].mean()), abs=1e-6)


def test_pearl_10_seeded_runs_repeat() -> None:
    found = []
    for _ in range(2):
        pipeline = rainproof()
        history = rr.fit(rr.recipes.PEARL(pipeline, TASK, ATTACK, MirrorBatch(AMA), weight=0.3), streets(), PLAN, quiet=True)
        found.append((fingerprint(pipeline), history.json()))
    assert found[0] == found[1]


def test_pearl_16_the_mirror_is_within_its_psnr() -> None:
    item, model = streets()[:], segmenter()
    mirror = MirrorGoal(AMA).run(model, TASK, rr.Batch(**item)).wanted
    psnr = -10 * (mirror - item["clean"]).square().flatten(1).mean(1).log10()
    assert bool((psnr >= -20 * math.log10(EPS) - 1e-3).all())
    assert bool((mirror != item["clean"]).flatten(1).any(1).all())


def test_the_readings_put_the_mirror_where_they_say() -> None:
    item, model = streets()[:], segmenter()
    batch, images, clean = rr.Batch(**item), item["images"], item["clean"]
    mirror = AMA(model, clean, TASK.untargeted(item["target"]))
    easier = (images + mirror - clean).clamp(0, 1)
    lessons = [goal.run(model, TASK, batch) for goal in (CleanGoal(), MirrorGoal(AMA), MirrorInput(AMA), MirrorBatch(AMA))]
    wanted = [(images, clean, None), (images, mirror, None), (easier, clean, None), (images, clean, easier)]
    for found, right in zip(lessons, wanted, strict=True):
        for one, other in zip(found, right, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("loss", "far"),
    [
        (None, lambda a, b: (a - b).square().mean()),
        (rr.losses.L1(), lambda a, b: (a - b).abs().mean()),
        (rr.losses.Dissimilarity(), lambda a, b: 1 - _skimage(a, b)),
    ],
    ids=["squared", "l1", "ssim"],
)
def test_the_loss_in_closed_form(loss: rr.Loss | None, far: object) -> None:
    item = streets()[:]
    pipeline = rr.DefendedPipeline(segmenter(), [rr.restorers.UNet(width=4)]).eval()  # untrained: the identity
    zero = ATTACK.replace(threat=rr.Linf(0.0))
    found = rr.recipes.PEARL(pipeline, TASK, zero, CleanGoal(loss), weight=0.5)(rr.Batch(**item))
    told = TASK.loss(pipeline.model(item["images"]), item["target"]).mean()
    wanted = far(item["images"], item["clean"])  # type: ignore[operator]
    assert float(found["distance"]) == pytest.approx(float(wanted), rel=1e-4)
    assert float(found["loss"].detach()) == pytest.approx(float((wanted + 0.5 * told).detach()), rel=1e-4)


def _skimage(first: Tensor, second: Tensor) -> float:
    from skimage.metrics import structural_similarity

    settings = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 0}
    pairs = zip(first.double().numpy(), second.double().numpy(), strict=True)
    return sum(structural_similarity(a, b, **settings) for a, b in pairs) / len(first)


def test_the_attack_goes_through_the_pipeline_or_through_the_model_alone_on_a_share() -> None:
    item, pipeline = streets()[:], rainproof().eval()
    fixed = ATTACK.replace(seed=0)
    for through, aim in (("", pipeline), ("model", pipeline.model)):
        recipe = rr.recipes.PEARL(pipeline, TASK, fixed, share=0.5, through=through)
        attacked = fixed(aim, item["images"][:4], TASK.untargeted(item["target"][:4]))
        restored = pipeline.clean(torch.cat([attacked, item["images"][4:]]))
        torch.testing.assert_close(recipe(rr.Batch(**item))["loss"], (restored - item["clean"]).square().mean())


def test_chosen_stages_alone_are_trained() -> None:
    both = rr.DefendedPipeline(segmenter(), [rr.restorers.UNet(width=4), rr.purifiers.Blur(), *rainproof().stages])
    assert rr.recipes.PEARL(both, TASK, ATTACK)._places == [0, 3]
    assert rr.recipes.PEARL(both, TASK, ATTACK, stages=[3]).trained is both.stages[3]
    before = [fingerprint(stage) for stage in both.stages]
    rr.fit(rr.recipes.PEARL(both, TASK, ATTACK, stages=[2, 0]), streets(), PLAN, quiet=True)
    assert [fingerprint(s) == b for s, b in zip(both.stages, before, strict=True)] == [False, True, False, True]


def test_wrong_use_is_named() -> None:
    with pytest.raises(ValueError, match=r"out of \[0, 1\], got \[5\]"):
        rr.recipes.PEARL(rainproof(), TASK, ATTACK, stages=[5])
    with pytest.raises(ValueError, match="put a restorer into"):
        rr.recipes.PEARL(rr.DefendedPipeline(segmenter(), [rr.purifiers.Blur()]), TASK, ATTACK)
    shared = rr.restorers.UNet(width=4)
    with pytest.raises(ValueError, match="share some with the model"):
        rr.recipes.PEARL(rr.DefendedPipeline(nn.Sequential(shared, segmenter()), [shared]), TASK, ATTACK)
    with pytest.raises(TypeError, match=r"rr\.attacks\.AMA"):
        MirrorGoal(ATTACK)
    with pytest.raises(TypeError, match=r"rr\.losses\.L1"):
        CleanGoal(F.mse_loss)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got one that asks the model"):
        rr.recipes.PEARL(rainproof(), TASK, ATTACK, CleanGoal(rr.losses.CleanOutput()))(rr.Batch(**streets()[:]))
    with pytest.raises(TypeError, match="task whose answers|a task with classes"):
        rr.recipes.PEARL(rainproof(), TASK, ATTACK, CleanGoal(rr.losses.Margin()))(rr.Batch(**streets()[:]))


def test_it_learns_to_restore_and_to_withstand_the_attack() -> None:
    """Before and after, an attack through all of it with more steps than in training."""
    pipeline = rr.DefendedPipeline(segmenter(), [rr.restorers.UNet(width=8)])
    attack = rr.attacks.PGD(rr.Linf(EPS), steps=10)

    def worth() -> tuple[float, float]:
        item = streets()[:]
        with torch.no_grad(), rr.evaluating(pipeline):
            far = float((pipeline.clean(item["images"]) - item["clean"]).square().mean())
        return far, rr.Validation(pipeline, streets(), TASK, attack)()["mean IoU (attacked)"]

    before = worth()
    plan = rr.Plan(steps=60, batch=8, optimiser=rr.AdamW(lr=0.01), average=0.9)
    rr.fit(rr.recipes.PEARL(pipeline, TASK, ATTACK, weight=0.02), streets(), plan, quiet=True)
    after = worth()
    assert after[0] < 0.5 * before[0]
    assert after[1] > before[1] + 0.04
