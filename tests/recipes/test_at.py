"""Plain and adversarial training: the loss is the task's on just the images that the attack gives."""

import pytest
import torch
from toys import Linear2, PixelSegmenter, photos
from toys_training import adversarial, classifier, colours

import robustrestore as rr
from robustrestore.recipes._parts import attacked


def test_the_loss_is_the_tasks_on_attacked_images() -> None:
    """On a linear model the best change is known: -eps sign(w) for class 0."""
    model, images = Linear2(), photos(3, 6, 6)
    task, labels = rr.tasks.Classification(), torch.zeros(3, dtype=torch.long)
    recipe = rr.recipes.AdversarialTraining(model, task, rr.attacks.FGSM(rr.Linf(0.05)), share=1.0)
    found = recipe(rr.Batch(images, labels))["loss"]
    wanted = task.loss(model(images - 0.05 * model.weight.sign()), labels).mean()
    torch.testing.assert_close(found, wanted)
    none = rr.recipes.AdversarialTraining(model, task, rr.attacks.FGSM(rr.Linf(0.05)), share=0.0)
    torch.testing.assert_close(none(rr.Batch(images, labels)), rr.recipes.Plain(model, task)(rr.Batch(images, labels)))


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_a_share_of_the_images_is_attacked(share: float, count: int) -> None:
    images, task = photos(4), rr.tasks.Segmentation()
    target = (images[:, 0] <= images[:, 1]).long()
    found = attacked(rr.attacks.FGSM(rr.Linf(0.05)), PixelSegmenter(), images, task.untargeted(target), share)
    changed = (found != images).flatten(1).any(1)
    assert changed.tolist() == [True] * count + [False] * (4 - count)


def test_a_share_of_single_images_is_met_on_average() -> None:
    """As in portions of one image: half of them are attacked, not all."""
    images, task = photos(1), rr.tasks.Segmentation()
    target = (images[:, 0] <= images[:, 1]).long()
    with rr.seeded(0):
        runs = [
            attacked(rr.attacks.FGSM(rr.Linf(0.05)), PixelSegmenter(), images, task.untargeted(target), 0.5) for _ in range(60)
        ]
    assert 20 <= sum(not torch.equal(one, images) for one in runs) <= 40


def test_gradients_reach_the_trained_part_alone_and_the_attack_leaves_none() -> None:
    network, (images, labels) = classifier(), colours().tensors
    recipe = adversarial(network)
    recipe(rr.Batch(images, labels))
    assert all(weight.grad is None for weight in network.parameters())


def test_bad_settings() -> None:
    task = rr.tasks.Classification()
    with pytest.raises(ValueError, match="share"):
        rr.recipes.AdversarialTraining(classifier(), task, rr.attacks.FGSM(rr.Linf(0.1)), share=1.5)
    with pytest.raises(TypeError, match="task"):
        rr.recipes.Plain(classifier(), "classification")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="attack"):
        rr.recipes.AdversarialTraining(classifier(), task, "pgd")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model"):
        rr.recipes.Plain(print, task)  # type: ignore[arg-type]
