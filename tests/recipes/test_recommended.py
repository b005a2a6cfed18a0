"""Recommended: its two limits are known recipes, its teacher stays, restorers and model move, purifiers do not."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys_recipes import ATTACK, PLAN, TASK, rainproof, segmenter, streets

import robustrestore as rr
from robustrestore.weights import fingerprint


def test_without_a_teacher_it_is_adversarial_training_behind_frozen_purifiers() -> None:
    first, second = (rr.DefendedPipeline(one.model, [one.stages[1]]) for one in (rainproof(), rainproof()))
    rr.fit(rr.recipes.Recommended(first, TASK, ATTACK, weight=0.0, share=0.5), streets(), PLAN, quiet=True)
    rr.fit(rr.recipes.AdversarialTraining(second, TASK, ATTACK, share=0.5), streets(), PLAN, quiet=True)
    assert fingerprint(first) == fingerprint(second)


def test_restorers_and_model_move_and_the_purifier_is_the_same_bit_for_bit() -> None:
    pipeline = rainproof()
    parts = (pipeline.stages[0], pipeline.stages[1], pipeline.model)
    before = [fingerprint(part) for part in parts]
    recipe = rr.recipes.Recommended(pipeline, TASK, ATTACK)
    rr.fit(recipe, streets(), PLAN, quiet=True)
    assert [fingerprint(part) == old for part, old in zip(parts, before, strict=True)] == [True, False, False]
    assert fingerprint(recipe._before) == before[2]  # the teacher is the model as it was


def test_the_teacher_sees_clean_images_and_the_divergence_is_that_of_torch() -> None:
    pipeline, item = rainproof().eval(), streets()[:]
    losses = rr.recipes.Recommended(pipeline, TASK, ATTACK, weight=0.25, share=0.0)(rr.Batch(**item))
    with torch.no_grad():
        told, wanted = pipeline(item["images"]), pipeline.model(item["clean"])
        apart = F.kl_div(told.log_softmax(1), wanted.softmax(1), reduction="none").sum(1)
        labelled = (item["target"] != 255).float()
        apart = ((apart * labelled).flatten(1).sum(1) / labelled.flatten(1).sum(1)).mean()
        truth = TASK.loss(told, item["target"]).mean()
    torch.testing.assert_close(losses["divergence"], apart)
    torch.testing.assert_close(losses["loss"], 0.75 * truth + 0.25 * apart)
    dry = rr.Batch(item["images"], item["target"])  # without clean images the teacher sees what there is
    rainy = rr.recipes.Recommended(pipeline, TASK, ATTACK, share=0.0)(dry)["divergence"]
    assert float(rainy) != float(losses["divergence"])


def test_the_attack_goes_through_all_of_it_and_a_teacher_may_be_another_model() -> None:
    pipeline, item, fixed = rainproof().eval(), streets()[:], ATTACK.replace(seed=0)
    other = segmenter(seed=3)
    found = rr.recipes.Recommended(pipeline, TASK, fixed, share=1.0, teacher=other)(rr.Batch(**item))
    attacked = fixed(pipeline, item["images"], TASK.untargeted(item["target"]))
    with torch.no_grad():
        torch.testing.assert_close(found["task"], TASK.loss(pipeline(attacked), item["target"]).mean())
        wanted = rr.losses.divergence(other(item["clean"]), pipeline(attacked), TASK.untargeted(item["target"])).mean()
    torch.testing.assert_close(found["divergence"], wanted)


def test_a_folder_of_another_teacher_is_refused(tmp_path: Path) -> None:
    rr.fit(
        rr.recipes.Recommended(rainproof(), TASK, ATTACK, teacher=segmenter(3)), streets(), PLAN, folder=tmp_path, quiet=True
    )
    other = rr.recipes.Recommended(rainproof(), TASK, ATTACK, teacher=segmenter(4))
    with pytest.raises(ValueError, match="frozen weights"):
        rr.fit(other, streets(), PLAN, folder=tmp_path, quiet=True)


def test_one_line_makes_and_trains_it() -> None:
    pipeline, before = rainproof(), fingerprint(rainproof())
    _, history = rr.finetune(pipeline, streets(), rr.recipes.Recommended, PLAN, task=TASK, quiet=True)
    assert fingerprint(pipeline) != before
    assert "divergence" in history.json()


def test_it_is_for_restoration_too() -> None:
    network = rr.restorers.UNet(width=4)
    nn.init.normal_(network.body.head.weight, std=0.02)
    item = streets()[:]
    camera = rr.DefendedPipeline(network, [])
    batch = rr.Batch(item["images"], item["clean"], item["clean"])
    losses = rr.recipes.Recommended(camera, rr.tasks.Restoration(), ATTACK, weight=0.5)(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_wrong_use_is_named() -> None:
    with pytest.raises(TypeError, match=r"write rr\.DefendedPipeline"):
        rr.recipes.Recommended(nn.Identity(), TASK, ATTACK)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"teacher: expected a torch\.nn\.Module, got str"):
        rr.recipes.Recommended(rainproof(), TASK, ATTACK, teacher="me")  # type: ignore[arg-type]
    pipeline = rainproof()
    for shared in (pipeline.model, pipeline):
        with pytest.raises(ValueError, match="shares some with what is trained"):
            rr.recipes.Recommended(pipeline, TASK, ATTACK, teacher=shared)
    for harmless in (None, rr.attacks.AMA(rr.Linf(4 / 255))):
        with pytest.raises(ValueError, match="attack: expected one that does harm"):
            rr.recipes.Recommended(pipeline, TASK, harmless)
    item = streets()[:]
    loud = rr.Batch(item["images"], item["target"], item["clean"] * 255)
    with pytest.raises(ValueError, match="clean"):
        rr.recipes.Recommended(pipeline, TASK, ATTACK)(loud)
    with pytest.raises(ValueError, match=r"teacher: expected answers \[8, 3, 16, 16\]"):
        rr.recipes.Recommended(pipeline, TASK, ATTACK, teacher=nn.Conv2d(3, 5, 1))(rr.Batch(**item))
    with pytest.raises(ValueError, match=r"weight: expected a share in \[0, 1\], got 2"):
        rr.recipes.Recommended(rainproof(), TASK, ATTACK, weight=2)
