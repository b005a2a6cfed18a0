"""finetune: one line for people, the same as fit; what it fills in and what it names."""

from pathlib import Path

import pytest
from toys_recipes import ATTACK, PLAN, TASK, rainproof, streets

import robustrestore as rr
from robustrestore.training.finetune import recipe_for
from robustrestore.weights import fingerprint


def test_it_is_fit_of_the_recipe_of_the_pipeline(tmp_path: Path) -> None:
    first, second, third = rainproof(), rainproof(), rainproof()
    trained, history = rr.finetune(
        first, streets(), rr.recipes.PEARL, PLAN, folder=tmp_path, quiet=True, task=TASK, attack=ATTACK, weight=0.1
    )
    recipe = rr.recipes.PEARL(second, TASK, ATTACK, weight=0.1)
    other = rr.finetune(second, streets(), recipe, PLAN, quiet=True)[1]
    rr.finetune(third, streets(), lambda p: rr.recipes.PEARL(p, TASK, ATTACK, weight=0.1), PLAN, quiet=True)
    assert trained is first
    assert fingerprint(first) == fingerprint(second) == fingerprint(third) != fingerprint(rainproof())
    assert history.rows == other.rows
    assert (tmp_path / "history.json").is_file()
    assert history.plot().startswith("<svg")


def test_held_images_choose_the_best_weights_under_the_recipes_attack() -> None:
    pipeline = rainproof()
    fixed = ATTACK.replace(seed=0)
    plan = PLAN.replace(steps=6, every=1)
    _, history = rr.finetune(pipeline, streets(), rr.recipes.PEARL, plan, streets(4), quiet=True, task=TASK, attack=fixed)
    assert list(history.best) == ["step", "mean IoU (attacked)"]
    found = rr.Validation(pipeline, streets(4), TASK, fixed, plan.batch)()
    assert found["mean IoU (attacked)"] == history.best["mean IoU (attacked)"]


def test_what_is_filled_in() -> None:
    pipeline = rainproof()
    pearl = recipe_for(pipeline, rr.recipes.PEARL, {"task": TASK})
    assert repr(pearl.attack) == repr(rr.attacks.NAA(rr.Linf(4 / 255), steps=3, seed=None))
    assert recipe_for(pipeline, rr.recipes.Plain, {"task": TASK, "part": "stages.1"}).model is pipeline
    assert recipe_for(pipeline, rr.recipes.Trades, {"task": TASK, "model": pipeline.model}).model is pipeline.model
    assert recipe_for(_purified(), rr.recipes.PurifyFinetune, {"task": rr.tasks.Restoration()}).attack is None


def _purified() -> rr.DefendedPipeline:
    return rr.DefendedPipeline(rr.restorers.UNet(width=4), [rr.purifiers.Blur()])


def test_wrong_use_is_named() -> None:
    pipeline, recipe = rainproof(), rr.recipes.PEARL(rainproof(), TASK, ATTACK)
    for match, arguments in {
        r"task=rr\.tasks\.Segmentation\(\)": (pipeline, streets(), rr.recipes.PEARL),
        r"rr\.recipes\.PEARL, got str": (pipeline, streets(), "pearl"),
        "expected a DefendedPipeline": (pipeline.model, streets(), rr.recipes.PEARL),
        "expected it to make a Recipe": (pipeline, streets(), lambda p: p),
    }.items():
        with pytest.raises(TypeError, match=match):
            rr.finetune(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="trains this pipeline"):
        rr.finetune(pipeline, streets(), recipe)
    with pytest.raises(TypeError, match="got a finished PEARL"):
        rr.finetune(pipeline, streets(), recipe, task=TASK)
    with pytest.raises(TypeError, match=r"got \['wait'\]"):
        rr.finetune(pipeline, streets(), rr.recipes.PEARL, task=TASK, wait=0.1)
