"""PurifyFinetune: levels, noise and shares as said; a closed form of what is learnt; the controls; the checklist by number."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from toys import Gain, Moody
from toys_recipes import ATTACK, TASK, rainproof, streets

import robustrestore as rr
from robustrestore.weights import fingerprint

SAME = rr.tasks.Restoration()
PGD = rr.attacks.PGD(rr.Linf(4 / 255), steps=2)


class _Halve(nn.Module):
    """A denoiser that believes in grey: half of the way there, whatever the level. It has batch statistics to spoil."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.tensor(0.5)), nn.BatchNorm2d(3)

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        self.norm(noisy)
        return 0.5 + self.weight * (noisy - 0.5)


class _Stretch(nn.Module):
    """A restorer with one weight: away from grey by that factor."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor) -> Tensor:
        return 0.5 + self.factor * (images - 0.5)


def _greys(count: int = 16) -> TensorDataset:
    own = torch.Generator().manual_seed(6)
    images = 0.3 + 0.4 * torch.rand(count, 3, 12, 12, generator=own)
    return TensorDataset(images, images)


def _camera() -> rr.DefendedPipeline:
    purifier = rr.purifiers.Diffusion(rr.diffusion.NoiseConditioned(_Halve()), sigma=0.1, steps=1, seed=0)
    return rr.DefendedPipeline(_Stretch(), [purifier])


def test_what_is_learnt_in_closed_form() -> None:
    """x -> grey + (x - grey + s n) / 2, s uniform in (l, h): least squares give 2 V / (V + (l^2 + l h + h^2) / 3)."""
    pipeline, (low, high) = _camera(), (0.05, 0.15)
    recipe = rr.recipes.PurifyFinetune(pipeline, SAME, sigmas=(low, high))
    plan = rr.Plan(steps=150, batch=16, optimiser=rr.AdamW(lr=0.05, weight_decay=0.0), average=0.98)
    rr.fit(recipe, _greys(), plan, quiet=True)
    spread = float((_greys().tensors[0] - 0.5).square().mean())
    wanted = 2 * spread / (spread + (low**2 + low * high + high**2) / 3)
    assert float(pipeline.model.factor.detach()) == pytest.approx(wanted, rel=0.03)


def test_udc_3_levels_are_uniform_one_a_batch_and_noise_is_fresh() -> None:
    recipe = rr.recipes.PurifyFinetune(_camera(), SAME, sigmas=(0.03, 0.08))
    batch, levels, losses = rr.Batch(*_greys(4).tensors), [], []
    for seed in range(300):
        with rr.seeded(seed), torch.no_grad():
            found = recipe(batch)
        levels.append(float(found["sigma"]))
        losses.append(float(found["loss"]))
    ordered = torch.tensor(sorted(levels))
    assert float(ordered[0]) >= 0.03
    assert float(ordered[-1]) <= 0.08
    uniform = 0.03 + 0.05 * (torch.arange(300) + 0.5) / 300
    assert float((ordered - uniform).abs().max()) < 0.05 * 1.63 / math.sqrt(300)  # Kolmogorov-Smirnov at 1 %
    one = rr.recipes.PurifyFinetune(_camera(), SAME, sigmas=(0.05, 0.05))
    found = []
    for seed in (0, 1, 0):
        with rr.seeded(seed), torch.no_grad():
            found.append(float(one(batch)["loss"]))
    assert found[0] == found[2] != found[1]
    with torch.no_grad(), rr.seeded(0):
        clean = one.at(0.05).clean(batch.images[:1].expand(2, -1, -1, -1))
    assert not torch.equal(clean[0], clean[1])  # each image has its own noise


def test_the_pipeline_at_a_level_votes_as_before() -> None:
    pipeline = _camera()
    voting = rr.DefendedPipeline(pipeline.model, list(pipeline.stages), vote=rr.MeanVote(runs=3))
    at = rr.recipes.PurifyFinetune(voting, SAME).at(0.05)
    assert at.vote is voting.vote
    assert at.stages[0].sigma == 0.05


def test_udc_5_the_purifier_stays_bit_for_bit_and_the_pipeline_keeps_its_level() -> None:
    pipeline = _camera()
    before, told = fingerprint(pipeline.stages[0]), repr(pipeline.stages[0])
    rr.fit(rr.recipes.PurifyFinetune(pipeline, SAME, PGD), _greys(), rr.Plan(steps=3, batch=4), quiet=True)
    assert fingerprint(pipeline.stages[0]) == before
    assert repr(pipeline.stages[0]) == told
    assert float(pipeline.model.factor) != 1.0


def test_udc_6_an_attack_on_the_clean_output_has_to_start_off_it() -> None:
    """The controls with r = f(x): the gradient is exactly 0 there, so BIM finds nothing, and PGD does."""
    network, images = Moody().eval(), _greys(4).tensors[0]
    goal = SAME.untargeted(network(images).detach())
    still = rr.attacks.BIM(rr.Linf(4 / 255), steps=3, loss=rr.losses.CleanOutput())
    found = rr.attacks.PGD(rr.Linf(4 / 255), steps=3, loss=rr.losses.CleanOutput())
    assert torch.equal(still(network, images, goal), images)
    assert float(goal.gain(network(found(network, images, goal))).min().detach()) > 0
    batch = rr.Batch(images, images)
    plain = rr.recipes.Plain(network, SAME)(batch)["loss"]
    trained = [rr.recipes.AdversarialTraining(network, SAME, attack)(batch)["loss"] for attack in (still, found)]
    assert float(trained[0].detach()) == float(plain.detach())
    assert float(trained[1].detach()) > float(plain.detach())


@pytest.mark.parametrize("through", ["", "model"])
def test_a_share_is_attacked_through_all_of_it_or_through_the_model_alone(through: str) -> None:
    pipeline, (images, wanted) = _camera(), _greys(4).tensors
    nn.init.constant_(pipeline.model.factor, 1.3)
    recipe = rr.recipes.PurifyFinetune(pipeline, SAME, PGD, sigmas=(0.0, 0.0), share=0.5, through=through)
    attacked = PGD(pipeline.model, images[:2], SAME.untargeted(wanted[:2]))  # at level 0 a purifier is the identity
    found = pipeline.model(torch.cat([attacked, images[2:]]))
    torch.testing.assert_close(recipe(rr.Batch(images, wanted))["loss"], SAME.loss(found, wanted).mean())


def test_udc_13_attacks_are_made_anew_against_the_tuned_model() -> None:
    class Spy(rr.Attack):
        """PGD that remembers what it found."""

        def __init__(self) -> None:
            self.threat, self.seen = rr.Linf(0.02), []

        def run(self, model: object, images: Tensor, objective: rr.Objective) -> Tensor:
            self.seen.append(rr.attacks.BIM(self.threat, steps=1).run(model, images, objective))
            return self.seen[-1]

    pipeline, spy = _camera(), Spy()
    pipeline.model.factor.data.fill_(0.5)
    images = torch.full((4, 3, 8, 8), 0.6)
    recipe = rr.recipes.PurifyFinetune(pipeline, SAME, spy, sigmas=(0.0, 0.0), share=1.0, through="model")
    plan = rr.Plan(steps=40, batch=4, optimiser=rr.AdamW(lr=0.1), average=None)
    wanted = torch.full_like(images, 0.58)
    rr.fit(recipe, TensorDataset(images, wanted), plan, quiet=True)
    first, last = (found - images for found in (spy.seen[0], spy.seen[-1]))
    assert float(first.max()) < 0 < float(last.min())  # towards grey while it stretches too little, away once it does


def test_the_perceptual_loss_is_added_with_its_weight() -> None:
    pipeline, (images, wanted) = _camera(), _greys(4).tensors
    features = nn.Conv2d(3, 5, 3)
    loss = rr.losses.Perceptual(features)
    recipe = rr.recipes.PurifyFinetune(pipeline, SAME, sigmas=(0.0, 0.0), perceptual=loss, weight=0.25)
    nn.init.constant_(pipeline.model.factor, 1.3)
    found = recipe(rr.Batch(images, wanted))
    units = [nn.functional.normalize(features(one), dim=1) for one in (pipeline.model(images), wanted)]
    apart = (units[0] - units[1]).square().sum(1).mean()
    torch.testing.assert_close(found["perceptual"], apart.detach(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        found["loss"], SAME.loss(pipeline.model(images), wanted).mean() + 0.25 * apart, rtol=1e-4, atol=1e-7
    )
    before = fingerprint(features)
    rr.fit(recipe, _greys(), rr.Plan(steps=2, batch=4), quiet=True)
    assert fingerprint(features) == before


def test_udc_11_the_tuned_model_does_better_on_purified_images_clean_and_attacked() -> None:
    pipeline, task = _camera(), SAME
    validations = [rr.Validation(pipeline, _greys(), task, attack, batch=16) for attack in (None, PGD)]
    before = [next(iter(v().values())) for v in validations]
    plan = rr.Plan(steps=60, batch=16, optimiser=rr.AdamW(lr=0.05), average=0.9)
    rr.fit(rr.recipes.PurifyFinetune(pipeline, task, PGD, sigmas=(0.02, 0.05)), _greys(), plan, quiet=True)
    pipeline.stages[0] = pipeline.stages[0].replace(sigma=0.035)
    after = [next(iter(v().values())) for v in validations]
    assert after[0] > before[0] + 3
    assert after[1] > before[1] + 1


def test_udc_12_the_controls_run_at_equal_budget() -> None:
    """Clean only, noise of equal level, adversarial training, a plain filter: one plan, the same images in the same order."""
    noisy = rr.purifiers.Diffusion(rr.diffusion.NoiseConditioned(_Same()), steps=1)
    plan, rows = rr.Plan(steps=3, batch=4, every=1), []
    for stage in (_camera().stages[0], noisy, rr.purifiers.Blur()):
        recipe = rr.recipes.PurifyFinetune(rr.DefendedPipeline(_Stretch(), [stage]), SAME, PGD, sigmas=(0.3, 0.6))
        rows.append(rr.fit(recipe, _greys(), plan, quiet=True))
    for recipe in (rr.recipes.Plain(_Stretch(), SAME), rr.recipes.AdversarialTraining(_Stretch(), SAME, PGD)):
        rows.append(rr.fit(recipe, _greys(), plan, quiet=True))
    assert len({str([(row["step"], row["rate"]) for row in history.rows]) for history in rows}) == 1
    assert len({history.about["plan"] for history in rows}) == 1
    assert len({row["loss"] for history in rows for row in history.rows[:1]}) == 5


class _Same(nn.Module):
    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return noisy


def test_a_restorer_behind_the_purifier_in_front_of_a_segmenter() -> None:
    pipeline = rainproof()
    purifier = rr.purifiers.Diffusion(rr.diffusion.SigmaUNet(width=4), steps=2)
    chain = rr.DefendedPipeline(pipeline.model, [purifier, pipeline.stages[1]])
    before = [fingerprint(part) for part in (chain.model, *chain.stages)]
    recipe = rr.recipes.PurifyFinetune(chain, TASK, ATTACK, part="stages.1")
    rr.fit(recipe, streets(), rr.Plan(steps=2, batch=4, average=None), quiet=True)
    after = [fingerprint(part) for part in (chain.model, *chain.stages)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False]
    with pytest.raises(TypeError, match="perceptual|classes|label"):
        rr.recipes.PurifyFinetune(chain, TASK, part="stages.1", perceptual=rr.losses.Margin())(rr.Batch(**streets()[:]))


@pytest.mark.parametrize("sigmas", [(0.1,), (0.2, 0.1), (-0.1, 0.1), (0.0, math.inf), (0.0, math.nan)])
def test_bad_levels(sigmas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(low, high\)"):
        rr.recipes.PurifyFinetune(_camera(), SAME, sigmas=sigmas)


def test_wrong_use_is_named() -> None:
    with pytest.raises(ValueError, match=r"add rr\.purifiers\.Diffusion"):
        rr.recipes.PurifyFinetune(rr.DefendedPipeline(Gain(), [rr.purifiers.Jpeg()]), SAME)
    with pytest.raises(ValueError, match="got the purifier at 'stages.0'"):
        rr.recipes.PurifyFinetune(_camera(), SAME, part="stages.0")
