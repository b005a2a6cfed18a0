"""Distill on targets whose surrogate is known: exact without noise, shrunk as ridge regression with it; queries paid once."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import Gain, PixelSegmenter, photos
from toys_certify import Line, images_of

import robustrestore as rr
from robustrestore import oracle
from robustrestore.recipe import training

TASK = rr.tasks.Classification()


class Affine(nn.Module):
    """Two free linear scores; `Line` is one of these."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 2)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer((images - 0.5).flatten(1))


def learn(recipe: rr.Recipe, images: Tensor, steps: int, lr: float = 0.1) -> dict[str, Tensor]:
    """All of the images in each step, to the optimum; the last losses."""
    how = rr.AdamW(lr, weight_decay=0.0, floor=0.001)
    with training(recipe) as weights, rr.seeded(0):
        optimiser = how.make(weights)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = how.rate(step, steps)
            losses = recipe(rr.Batch(images))
            optimiser.zero_grad()
            losses["loss"].backward()
            optimiser.step()
    return {name: loss.detach() for name, loss in losses.items()}


def distilled(target: oracle.Queried, images: Tensor, steps: int = 150, **more: object) -> Affine:
    surrogate = Affine()
    learn(rr.recipes.Distill(target, surrogate, TASK, **more), images, steps)  # type: ignore[arg-type]
    return surrogate


def test_a_linear_target_is_recovered_exactly() -> None:
    line, images = Line(), images_of(100)
    surrogate = distilled(oracle.Queried(line), images)
    weight = line.weight.detach().flatten()
    assert torch.allclose(surrogate.layer.weight, torch.stack([weight, -weight]), atol=0.02)
    assert torch.allclose(surrogate(images), line(images), atol=0.02)


def test_answers_are_paid_once_over_steps_epochs_and_runs(tmp_path: Path) -> None:
    line, images, shown = Line(), images_of(12), []
    line.register_forward_hook(lambda module, inputs, outputs: shown.append(len(outputs)))
    for _ in range(2):
        target = oracle.Queried(line, cache=tmp_path / "answers.db", budget=12)
        recipe = rr.recipes.Distill(target, Affine(), TASK, rr.certify.Gaussian(0.25))
        rr.fit(recipe, [images], rr.Plan(steps=9, batch=4), quiet=True)  # three epochs
        assert sum(shown) == target.sent == target.answered == 12


def test_no_gradient_reaches_the_oracle() -> None:
    counted = rr.Counted(Line().train())
    surrogate = distilled(oracle.Queried(counted), images_of(64), steps=3, noise=rr.certify.Gaussian(0.25))
    assert counted.backwards == 0
    assert all(weight.grad is None and weight.requires_grad for weight in counted.parameters())
    assert counted.training
    recipe = rr.recipes.Distill(oracle.Queried(counted), surrogate, TASK)
    mine = {id(weight) for weight in surrogate.parameters()}
    assert {id(weight) for weight in recipe.parameters()} == mine


def test_under_noise_a_linear_surrogate_shrinks_as_ridge_regression_does() -> None:
    """target(x) from x + e: by variance(x) / (variance(x) + variance(e)); target(x + e) from x + e: not at all."""
    line, own = Line(), torch.Generator().manual_seed(2)
    images = (0.5 + 0.1 * torch.randn(600, 1, 4, 4, generator=own)).clamp(0, 1)
    noise = rr.certify.Gaussian(0.1)
    weight = line.weight.detach().flatten()
    shrunk = distilled(oracle.Queried(line), images, 120, noise=noise).layer.weight[0].detach()
    assert float(shrunk @ weight / (weight @ weight)) == pytest.approx(0.5, abs=0.04)
    noisy = rr.data.Noisy(list(images[:150]), noise)  # type: ignore[arg-type]
    full = distilled(oracle.Queried(line), torch.stack([noisy[k] for k in range(150)]), 120).layer.weight[0].detach()
    assert float(full @ weight / (weight @ weight)) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("tier", "answer", "gap"),
    [
        (oracle.Logits(), lambda z: z, None),
        (oracle.Logits(), lambda z: z, oracle.KLGap()),
        (oracle.Logits(), lambda z: z, oracle.LabelGap()),
        (oracle.Probabilities(), lambda z: z.softmax(1), None),
        (oracle.Labels(), lambda z: z.argmax(1), None),
    ],
    ids=["l1", "kl", "cross-entropy", "probabilities", "label-only"],
)
def test_16_every_tier_and_gap_leads_to_agreement_on_held_out_clean_and_noisy_images(
    tier: oracle.Tier, answer: object, gap: oracle.Gap | None
) -> None:
    line = Line()
    target = oracle.Queried(lambda x: answer(line(x)), tier)  # type: ignore[operator]
    surrogate = distilled(target, images_of(150), 60, noise=rr.certify.Gaussian(0.05), gap=gap)
    held = rr.data.Unlabelled(list(images_of(100, seed=9)))  # type: ignore[arg-type]
    assert rr.data.overlap(held, rr.data.Unlabelled(list(images_of(150)))) == 0  # type: ignore[arg-type]
    for data in (held, rr.data.Noisy(held, rr.certify.Gaussian(0.05))):
        found = rr.Validation(surrogate, rr.data.Answered(data, target), TASK, batch=100)()
        assert found["accuracy"] > 0.9
    assert rr.Validation(Affine(), rr.data.Answered(held, target), TASK, batch=100)()["accuracy"] < 0.7


def test_16_agreement_grows_with_the_budget() -> None:
    line, held = Line(), images_of(400, seed=9)
    agreed = []
    for budget in (4, 120):
        surrogate = distilled(oracle.Queried(line, budget=budget), images_of(120)[:budget], 60)
        agreed.append(float((surrogate(held).argmax(1) == line(held).argmax(1)).float().mean()))
    assert agreed[0] < 0.85 < 0.97 < agreed[1]


def test_segmenters_and_restorers_go_by_the_same_recipe() -> None:
    images = photos(8)
    tiers = [
        (PixelSegmenter(), nn.Conv2d(3, 2, 1), rr.tasks.Segmentation(), oracle.Logits()),
        (Gain(0.5), nn.Conv2d(3, 3, 1), rr.tasks.Restoration(), oracle.Images()),
    ]
    for model, surrogate, task, tier in tiers:
        recipe = rr.recipes.Distill(oracle.Queried(model, tier), surrogate, task)
        losses = learn(recipe, images, 150, lr=0.5)
        assert float(losses["loss"]) < 0.02
        assert float(losses["agreement"]) > 0.99
        assert torch.allclose(surrogate(images), model(images), atol=0.05)


def test_arguments_are_checked() -> None:
    target, surrogate = oracle.Queried(Line()), Affine()
    for wrong in (
        {"oracle": Line()},
        {"noise": 0.25},
        {"noise": lambda image: rr.certify.Gaussian(0.25)},
        {"gap": "l1"},
        {"task": "segmentation"},
    ):
        with pytest.raises(TypeError, match="expected"):
            rr.recipes.Distill(**{"oracle": target, "surrogate": surrogate, "task": TASK, **wrong})  # type: ignore[arg-type]
