"""NAT: adversarial training of the model behind frozen stages, and its readings."""

import pytest
import torch
from torch import nn
from toys_recipes import ATTACK, PLAN, TASK, rainproof, streets

import robustrestore as rr
from robustrestore.weights import fingerprint


def test_pearl_5_the_stages_are_the_same_bit_for_bit_and_the_model_is_not() -> None:
    pipeline = rainproof()
    before = [fingerprint(part) for part in (pipeline.stages[0], pipeline.stages[1], pipeline.model)]
    rr.fit(rr.recipes.NAT(pipeline, TASK, ATTACK), streets(), PLAN, quiet=True)
    after = [fingerprint(part) for part in (pipeline.stages[0], pipeline.stages[1], pipeline.model)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False]


def test_it_is_adversarial_training_of_a_part() -> None:
    first, second = rainproof(), rainproof()
    rr.fit(rr.recipes.NAT(first, TASK, ATTACK, share=0.5), streets(), PLAN, quiet=True)
    rr.fit(rr.recipes.AdversarialTraining(second, TASK, ATTACK, 0.5, part="model"), streets(), PLAN, quiet=True)
    assert fingerprint(first) == fingerprint(second)


def test_the_clean_term_is_weighed_and_asks_for_clean_images() -> None:
    pipeline, item = rainproof().eval(), streets()[:]
    batch = rr.Batch(**item)
    losses = rr.recipes.NAT(pipeline, TASK, ATTACK, share=0.0, clean=0.25)(batch)
    rainy, clean = (TASK.loss(pipeline(item[name]), item["target"]).mean() for name in ("images", "clean"))
    torch.testing.assert_close(losses["loss"], rainy + 0.25 * clean)
    torch.testing.assert_close(losses["clean"], clean)
    with pytest.raises(ValueError, match="missing clean"):
        rr.recipes.NAT(pipeline, TASK, ATTACK, clean=0.25)(rr.Batch(item["images"], item["target"]))
    rr.recipes.NAT(pipeline, TASK, ATTACK)(rr.Batch(item["images"], item["target"]))


def test_the_attack_goes_through_the_pipeline_or_through_the_model_alone() -> None:
    pipeline, item = rainproof().eval(), streets()[:]
    batch, goal, fixed = rr.Batch(**item), TASK.untargeted(item["target"]), ATTACK.replace(seed=0)
    for through, aim in (("", pipeline), ("model", pipeline.model)):
        found = rr.recipes.NAT(pipeline, TASK, fixed, through=through)(batch)["loss"]
        attacked = fixed(aim, item["images"], goal)
        torch.testing.assert_close(found, TASK.loss(pipeline(attacked), item["target"]).mean())


def test_model_and_stages_together() -> None:
    pipeline = rainproof()
    before = fingerprint(pipeline.stages[1]), fingerprint(pipeline.model)
    rr.fit(rr.recipes.NAT(pipeline, TASK, ATTACK, part=""), streets(), PLAN, quiet=True)
    assert fingerprint(pipeline.stages[1]) != before[0]
    assert fingerprint(pipeline.model) != before[1]


def test_wrong_use_is_named() -> None:
    with pytest.raises(TypeError, match=r"write rr\.DefendedPipeline"):
        rr.recipes.NAT(nn.Identity(), TASK, ATTACK)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="head"):
        rr.recipes.NAT(rainproof(), TASK, ATTACK, through="head")
    with pytest.raises(ValueError, match="clean"):
        rr.recipes.NAT(rainproof(), TASK, ATTACK, clean=-1)
