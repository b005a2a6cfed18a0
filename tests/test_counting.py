"""Counted says what an attack costs and changes nothing else."""

import pytest
import torch
from toys import Linear2, Moody, photos

import robustrestore as rr
from robustrestore.counting import Counted

TASK = rr.tasks.Classification()


def goal(count: int = 3) -> rr.Objective:
    return TASK.untargeted(torch.zeros(count, dtype=torch.long))


def test_pgd_is_counted_exactly() -> None:
    model, images = Counted(Linear2()), photos(3, 6, 6)
    rr.attacks.PGD(rr.Linf(0.02), steps=5)(model, images, goal())
    assert (model.forwards, model.images, model.backwards) == (6, 18, 5)
    rr.attacks.PGD(rr.Linf(0.02), steps=2, restarts=2, samples=3)(model, images, goal())
    assert (model.forwards, model.backwards) == (6 + 2 * 3 * 3, 5 + 2 * 3 * 2)
    model.reset()
    assert (model.forwards, model.images, model.backwards) == (0, 0, 0)


def test_outputs_gradients_and_found_images_are_the_models_own() -> None:
    model, images = Moody().eval(), photos(2)
    counted = Counted(model)
    leaves = [images.clone().requires_grad_() for _ in range(2)]
    outputs = [one(leaf) for one, leaf in zip((model, counted), leaves, strict=True)]
    assert torch.equal(*outputs)
    gradients = [torch.autograd.grad(o.square().sum(), leaf)[0] for o, leaf in zip(outputs, leaves, strict=True)]
    assert torch.equal(*gradients)
    attack, objective = rr.attacks.PGD(rr.Linf(0.02), steps=3), rr.tasks.Restoration().untargeted(images)
    assert torch.equal(attack(model, images, objective), attack(counted, images, objective))


def test_modes_and_parameters_go_through_also_for_a_bound_method() -> None:
    model = Moody().train()
    model.drop.eval()
    for counted in (Counted(model), Counted(rr.DefendedPipeline(model).predict)):
        assert {id(p) for p in counted.parameters()} == {id(p) for p in model.parameters()}
        rr.attacks.FGSM(rr.Linf(0.02))(counted, photos(2), rr.tasks.Restoration().untargeted(photos(2) * 0.5))
        assert counted.forwards == 2
        assert (model.training, model.norm.training, model.drop.training) == (True, True, False)
        with rr.evaluating(counted):
            assert not model.norm.training
            assert torch.equal(counted(photos()), counted(photos()))


def test_plain_functions_and_any_output() -> None:
    counted = Counted(lambda images: {"out": images.flatten(1)[:, :2]})
    leaf = photos(2).requires_grad_()
    counted(leaf)["out"].sum().backward()
    assert (counted.forwards, counted.images, counted.backwards) == (1, 2, 1)
    assert list(counted.parameters()) == []
    with pytest.raises(TypeError, match="expected a module or a function of images, got int"):
        Counted(3)  # type: ignore[arg-type]


def test_a_step_on_weights_alone_is_no_gradient_in_the_input() -> None:
    model = Counted(Linear2())
    model(photos(2, 6, 6)).sum().backward()
    assert model.model.weight.grad is not None
    assert (model.forwards, model.backwards) == (1, 0)


def test_inside_a_pipeline_and_under_inference_mode() -> None:
    model = Counted(Linear2())
    pipeline = rr.DefendedPipeline(model, [rr.purifiers.Blur()])
    with torch.inference_mode():
        pipeline(photos(2, 6, 6))
    rr.attacks.PGD(rr.Linf(0.02), steps=2)(pipeline.straight_through(), photos(3, 6, 6), goal())
    assert (model.forwards, model.images, model.backwards) == (4, 11, 2)
