"""What evaluate hands to attacks: only harm counts where an attacker sees just what is scored, the whole gain elsewhere."""

import pytest
import torch
from torch import Tensor, nn
from toys import Linear2, photos

import robustrestore as rr
from robustrestore.measurement import View

EPS = 8 / 255
IMAGES = photos(1, 6, 6)
LABEL = Linear2()(IMAGES).argmax(1)


class Bright(nn.Module):
    """Steeper where a picture gets lighter than 0.95, which a clamped output does not show, than where it gets darker."""

    def forward(self, images: Tensor) -> Tensor:
        off = images.mean((1, 2, 3), keepdim=True) - 0.95
        return images + torch.where(off > 0, 9 * off, 8 * off)


class Nothing(rr.Purifier):
    def run(self, images: Tensor) -> Tensor:
        return images * 1.0


class Halves(rr.Purifier):
    """Undoes half of what an attack did to the one image; the clean image passes."""

    def run(self, images: Tensor) -> Tensor:
        return images - (images - IMAGES) / 2


class Noted(rr.Attack):
    """Moves by the whole budget and notes whether only harm counts."""

    def __init__(self, threat: rr.Threat, seen: list[bool]) -> None:
        self.threat, self.seen = threat, seen

    def run(self, model: object, images: Tensor, objective: rr.Objective) -> Tensor:
        self.seen.append(objective.by_harm)
        return images + self.threat.eps


@pytest.mark.parametrize(
    "attack",
    [
        rr.attacks.PGD(rr.Linf(EPS), restarts=3),
        rr.attacks.ConstantShift(rr.Linf(EPS)),
        rr.attacks.Worst.restoration(rr.Linf(EPS), steps=20),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_overshoot_that_nobody_sees_is_not_kept(attack: rr.Attack) -> None:
    images = torch.full((2, 1, 12, 12), 0.95)
    report = rr.evaluate(rr.DefendedPipeline(Bright()), [(images, images)], rr.tasks.Restoration(), [attack])
    darker = -20 * torch.log10(torch.tensor(9 * EPS))  # the best there is: 10.98 dB
    assert report.rows[1].values["PSNR"] == pytest.approx(float(darker), abs=0.01)


@pytest.mark.parametrize(("stages", "oblivious"), [([Nothing()], True), ([rr.purifiers.Blur(2.0)], False)], ids=repr)
def test_who_sees_what_is_scored_is_judged_by_harm(stages: list[rr.Stage], oblivious: bool) -> None:
    """The bare model in every case: otherwise a defence that does nothing would score below it."""
    seen: list[bool] = []
    rr.evaluate(
        rr.DefendedPipeline(Linear2(), stages), [(IMAGES, LABEL)], rr.tasks.Classification(), [Noted(rr.Linf(EPS), seen)]
    )
    assert seen == [True, oblivious, True, True]  # bare, oblivious, BPDA, adaptive


def test_a_defence_that_does_nothing_scores_like_none() -> None:
    """Where the highest loss is not the lowest accuracy: it prefers one pixel far off to three that are just wrong."""

    class Torn(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            lighter = images.mean((1, 2, 3)).view(-1, 1, 1) - 0.5
            score = 0.1 - lighter * torch.tensor([[60.0, -4.0], [-4.0, -4.0]])
            return torch.stack([score, -score], dim=1)

    images, target = torch.full((8, 3, 2, 2), 0.5), torch.zeros(8, 2, 2, dtype=torch.long)
    attack = rr.attacks.ConstantShift(rr.Linf(0.2))
    goal = rr.tasks.Segmentation().untargeted(target)
    wrong = [(Torn()(attack(Torn(), images, one)).argmax(1) != target).float().mean() for one in (goal, goal.judged())]
    assert wrong == [0.25, 0.75]
    report = rr.evaluate(rr.DefendedPipeline(Torn(), [Nothing()]), [(images, target)], rr.tasks.Segmentation(), [attack])
    assert {row.values["pixel accuracy"] for row in report.rows if row.attack == repr(attack)} == {0.25}
    assert report.verdicts[0].startswith("Worst case, Nothing against no defence: no difference beyond chance")


@pytest.mark.parametrize("view", [lambda p: lambda x: p.model(x), lambda p: p.predict], ids=["own", "predict"])
def test_a_defence_that_acts_on_attacked_images_only_gets_the_full_attack(view: View) -> None:
    """Three times the size that is needed, of which half stays; the first step to fool the bare model is undone."""
    model = Linear2()
    least = (model(IMAGES)[0].max() / model.weight.abs().sum()).item()
    attack = rr.attacks.PGD(rr.Linf(3 * least), steps=8, random_start=False)
    goal, behind = rr.tasks.Classification().untargeted(LABEL), rr.DefendedPipeline(model, [Halves()])
    fooled = [bool(behind(attack(model, IMAGES, one)).argmax(1) != LABEL) for one in (goal, goal.judged())]
    assert fooled == [True, False]
    report = rr.evaluate(behind, [(IMAGES, LABEL)], rr.tasks.Classification(), [attack], views={"surrogate": view})
    (row,) = [row for row in report.rows if row.view == "surrogate"]
    assert row.values["accuracy"] == 0
