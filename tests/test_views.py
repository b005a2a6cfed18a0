"""The surrogate view: fewer steps, and nothing else."""

import pytest
import torch
from toys import Linear2, photos
from toys_diffusion import Convolved, Oracle

import robustrestore as rr
from robustrestore import diffusion
from robustrestore.purifiers import Blur, DensePure, Diffusion, Ensemble, Rounds, ScoreOpt
from robustrestore.stage import StraightThrough
from robustrestore.views import surrogate


def test_only_the_steps_change_and_networks_are_shared() -> None:
    one = Diffusion(Convolved(), sigma=0.2, steps=50, sampler=diffusion.DDPM(), seed=3, tile=16, overlap=4)
    few = Diffusion(Convolved(), steps=4)
    pipeline = rr.DefendedPipeline(Linear2(), [Blur(), one, few], rr.MeanVote(3))
    view = surrogate(5)(pipeline)
    blur, short, same = view.stages
    assert blur is pipeline.stages[0]
    assert same is few
    assert short.settings() == {**one.settings(), "steps": 5}
    assert short.denoiser is one.denoiser
    assert view.model is pipeline.model
    assert view.vote is pipeline.vote
    assert one.steps == 50
    assert {id(p) for p in view.parameters()} == {id(p) for p in pipeline.parameters()}


def test_wrapped_stages_are_shortened_too() -> None:
    one = Diffusion(Convolved(), steps=20)
    rounds = Rounds(one, [[0.1, 20], [0.2, 3]])
    stages = [rounds, Ensemble(one, 4), Ensemble(rounds, 2), StraightThrough(one), ScoreOpt(Convolved(), iterations=9)]
    stages += [DensePure(Convolved(), 0.2, 20, seed=4), DensePure(Convolved(), steps=3)]
    found = list(surrogate(5)(rr.DefendedPipeline(Linear2(), stages)).stages)
    assert found[0].rounds == [[0.1, 5], [0.2, 3]]
    assert found[0].purifier is one
    assert (found[1].purifier.steps, found[1].runs) == (5, 4)
    assert found[2].purifier.rounds == [[0.1, 5], [0.2, 3]]
    assert found[3].stage.steps == 5
    assert found[4] is stages[4]
    assert found[5].settings() == {**stages[5].settings(), "steps": 5}
    assert found[6] is stages[6]


def test_calls_levels_and_noise() -> None:
    images = photos(1)
    grid = diffusion.TimestepGrid()
    full, short = Oracle(images), Oracle(images)
    for oracle, steps in ((full, 100), (short, 5)):
        stage = Diffusion(oracle, sigma=grid.sigma(100), steps=100, sampler=diffusion.DDIM(grid=grid), seed=2)
        surrogate(steps)(rr.DefendedPipeline(torch.nn.Identity(), stage))(images)
    assert (len(full.told), len(short.told)) == (100, 5)
    assert set(short.told) <= set(full.told)  # on the same grid
    assert torch.equal(full.shown[0], short.shown[0])  # from the same noisy image


def test_evaluate_measures_it_beside_the_others() -> None:
    images = photos(6, 6, 6)
    stage = Diffusion(Convolved(), sigma=0.05, steps=4)
    pipeline = rr.DefendedPipeline(Linear2(), stage)
    data, task = [(images, Linear2()(images).argmax(1))], rr.tasks.Classification()
    pgd = rr.attacks.PGD(rr.Linf(4 / 255), steps=2)
    views = {**rr.VIEWS, "surrogate": surrogate(1)}
    report = rr.evaluate(pipeline, data, task, [pgd], views=views, baselines=[Blur()])
    assert sum(row.view == "surrogate" for row in report.rows) == 2  # of the pipeline and of the baseline
    other = rr.evaluate(pipeline, data, task, [pgd], views={**rr.VIEWS, "surrogate": surrogate(2)}, baselines=[Blur()])
    assert report.about["views"]["surrogate"] != other.about["views"]["surrogate"]


@pytest.mark.parametrize("steps", [0, 1.5, True])
def test_wrong_steps(steps: object) -> None:
    with pytest.raises(ValueError, match=f"steps: expected a whole number >= 1, got {steps}"):
        surrogate(steps)
