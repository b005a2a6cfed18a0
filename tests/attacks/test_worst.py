"""Worst and Sequence: per image the worst, nothing spent on images that are done, one budget for all."""

import pytest
import torch
from torch import Tensor
from toys import Linear2, Moody, PixelSegmenter, photos

import robustrestore as rr

EPS = 8 / 255


class Recorded(rr.Attack):
    """Moves red up by the whole budget and remembers how many images it was handed."""

    def __init__(self, threat: rr.Threat, seen: list[int]) -> None:
        self.threat, self.seen = threat, seen

    def run(self, model: object, images: Tensor, objective: rr.Objective) -> Tensor:
        self.seen.append(len(images))
        return images + torch.tensor([self.threat.eps, 0, 0]).view(1, 3, 1, 1)


def _gray(shade: float, count: int = 1) -> Tensor:
    """Red above green by `shade`: class 0 of PixelSegmenter while it is positive."""
    images = torch.full((count, 3, 8, 8), 0.5)
    images[:, 0] += shade
    return images


def test_worst_is_at_least_every_member() -> None:
    images, model = photos(3), Moody().eval()
    goal = rr.tasks.Segmentation().untargeted(torch.randint(0, 3, (3, 16, 20), generator=torch.Generator().manual_seed(2)))
    members = [rr.attacks.FGSM(rr.Linf(EPS)), rr.attacks.PGD(rr.Linf(EPS), steps=3), rr.attacks.UniformNoise(rr.Linf(EPS))]
    with torch.no_grad():
        worst = goal.gain(model(rr.attacks.Worst(members)(model, images, goal)))
        each = torch.stack([goal.gain(model(attack(model, images, goal))) for attack in members])
    torch.testing.assert_close(worst, each.amax(0))


def test_a_judged_goal_spends_nothing_on_images_without_anything_to_lose() -> None:
    images = torch.cat([_gray(0.2), _gray(0.01), _gray(-0.2)])  # safe, in reach, wrong already
    goal = rr.tasks.Segmentation().untargeted(torch.zeros(3, 8, 8, dtype=torch.long))
    for objective, handed in ((goal.judged(), [1]), (goal, [3])):
        seen: list[int] = []
        attacks = [rr.attacks.PGD(rr.Linf(EPS), steps=8), Recorded(rr.Linf(EPS), seen)]
        found = rr.attacks.Worst(attacks)(PixelSegmenter(), images, objective)
        assert seen == handed
        assert bool((PixelSegmenter()(found)[1].argmax(0) == 1).all())


def test_sequence_hands_on_what_is_not_reached() -> None:
    images = torch.cat([_gray(0.2), _gray(0.01), _gray(-0.2)])
    goal = rr.tasks.Segmentation().untargeted(torch.zeros(3, 8, 8, dtype=torch.long))
    seen: list[int] = []
    attack = rr.attacks.Sequence([rr.attacks.FGSM(rr.Linf(EPS)), Recorded(rr.Linf(EPS), seen)])
    found = attack(PixelSegmenter(), images, goal)
    assert seen == [1]
    assert torch.equal(found[2], images[2])  # reached without attack
    assert bool(goal.reached(PixelSegmenter()(found))[1])


@pytest.mark.parametrize("kind", [rr.attacks.Worst, rr.attacks.Sequence])
def test_bad_members_are_named(kind: type[rr.Attack]) -> None:
    with pytest.raises(ValueError, match=r"one threat for all, got \['L2\(eps=0.5\)', 'Linf\(eps=8/255\)'\]"):
        kind([rr.attacks.FGSM(rr.Linf(EPS)), rr.attacks.FGSM(rr.L2(0.5))])
    with pytest.raises(ValueError, match="at least one"):
        kind([])
    with pytest.raises(ValueError, match="does the opposite"):
        kind([rr.attacks.AMA(rr.Linf(EPS))])
    with pytest.raises(TypeError, match="expected attacks"):
        kind([rr.Linf(EPS)])
    with pytest.raises(ValueError, match="a task in common"):
        kind([rr.attacks.DeepFool(rr.Linf(EPS)), rr.attacks.SegPGD(rr.Linf(EPS))])


def test_nan_is_named_by_a_sequence() -> None:
    model, images = Linear2(), photos(2, 6, 6)
    goal = rr.tasks.Classification().untargeted(torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="NaN"):
        rr.attacks.Sequence([rr.attacks.UniformNoise(rr.Linf(EPS))])(lambda x: model(x) * torch.nan, images, goal)


def test_the_standard_sets_fit_their_tasks() -> None:
    threat = rr.Linf(EPS)
    sets = {
        "label": rr.attacks.Worst.classification(threat, steps=2, queries=3),
        "map": rr.attacks.Worst.segmentation(threat, steps=2),
        "image": rr.attacks.Worst.restoration(threat, steps=2),
    }
    assert all(answer in attack.answers for answer, attack in sets.items())
    images, labels = photos(2, 6, 6), torch.tensor([0, 1])
    model = Linear2()
    found = sets["label"](model, images, rr.tasks.Classification().untargeted(labels).judged())
    assert float((model(found).argmax(1) == labels).float().mean()) <= float((model(images).argmax(1) == labels).float().mean())
    target = PixelSegmenter()(photos(2)).argmax(1)
    found = sets["map"](PixelSegmenter(), photos(2), rr.tasks.Segmentation().untargeted(target).judged())
    assert float((PixelSegmenter()(found).argmax(1) == target).float().mean()) < 1
    found = sets["image"](torch.nn.Identity(), photos(2), rr.tasks.Restoration().untargeted(photos(2)))
    torch.testing.assert_close((found - photos(2)).abs(), torch.full((2, 3, 16, 20), EPS), atol=1e-6, rtol=0)
