"""Worst: per image the worst of several attacks. Sequence: cheap ones first, dear ones where those did not suffice."""

from collections.abc import Sequence as List

import torch
from torch import Tensor

from ..attack import Attack, Model
from ..images import per_image
from ..losses import L1, CleanOutput, Margin
from ..search import Search
from ..task import Answer, Objective
from ..threat import Threat
from .apgd import APGD, APGDT
from .cos_pgd import CosPGD
from .noise import ConstantShift
from .pgd import PGD
from .sea import SEA
from .seg_pgd import SegPGD
from .square import Square


class Worst(Attack, name="worst"):
    """Per image the worst of several attacks within one threat, as AutoAttack takes it (Croce and Hein, 2020).

    By the objective's gain; by harm (a wrong label, the share of wrong pixels) where the objective is `judged()`, as in
    `evaluate`: then nothing more is spent on an image that has no harm left to take. `classification`, `segmentation` and
    `restoration` make a standard set each.
    """

    def __init__(self, attacks: List[Attack]) -> None:
        self.attacks = list(attacks)
        self.threat, self.answers = _common(self.attacks)
        self.blind, self.fills = all(a.blind for a in self.attacks), any(a.fills for a in self.attacks)

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """One attack after the other, on the images that are still worth it."""
        search = Search(model, images, objective)
        search.look(images)
        for attack in self.attacks:
            search.drop()
            if not len(search):
                break
            search.look(attack(model, search.original, search.judge))
        return search.result()

    @classmethod
    def classification(cls, threat: Threat, steps: int = 100, queries: int = 5000) -> "Worst":
        """After AutoAttack (Croce and Hein, 2020), without FAB: APGD, targeted APGD towards 9 classes, Square."""
        return cls([APGD(threat, steps), APGDT(threat, steps), Square(threat, queries, loss=Margin())])

    @classmethod
    def segmentation(cls, threat: Threat, steps: int = 100) -> "Worst":
        """SEA, the segmentation ensemble attack (Croce et al., 2024), with SegPGD, CosPGD and PGD beside it."""
        return cls([attack(threat, steps) for attack in (SEA, SegPGD, CosPGD, PGD)])

    @classmethod
    def restoration(cls, threat: Threat, steps: int = 100) -> "Worst":
        """Our choice: a constant shift, APGD and PGD on the error, PGD on L1 and away from the model's own clean output."""
        climbed = [PGD(threat, steps, loss=loss) for loss in (None, L1(), CleanOutput())]
        return cls([ConstantShift(threat), APGD(threat, steps), *climbed])


class Sequence(Attack, name="sequence"):
    """Attacks in order, cheap to dear: each sees only the images on which the goal is not reached yet.

    An image's result is the best of the attacks that saw it. For whether a model breaks, not for how much: `Worst` asks that.
    """

    def __init__(self, attacks: List[Attack]) -> None:
        self.attacks = list(attacks)
        self.threat, self.answers = _common(self.attacks)
        self.blind, self.fills = all(a.blind for a in self.attacks), any(a.fills for a in self.attacks)

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """One attack after the other, on what is left."""
        best = images.clone()
        with torch.no_grad():
            outputs = model(images)
        left, gain = ~objective.reached(outputs), objective.gain(outputs)
        for attack in self.attacks:
            index = left.nonzero()[:, 0]
            if len(index) == 0:
                break
            goal = objective.at(index)
            found = attack(model, images[index], goal)
            with torch.no_grad():
                outputs = model(found)
            hit, now = goal.reached(outputs), goal.gain(outputs)
            better = hit | (now > gain[index])
            best[index] = torch.where(per_image(better, found), found, best[index])
            gain[index], left[index] = torch.maximum(now, gain[index]), ~hit
        if not bool(gain.isfinite().all()):
            raise ValueError("outputs: expected finite values, got NaN or infinity: look at the model and its precision")
        return best


def _common(attacks: List[Attack]) -> tuple[Threat, tuple[Answer, ...]]:
    """The one threat of all attacks and the tasks that fit them all; ValueError where they differ."""
    for attack in attacks:
        if not isinstance(attack, Attack):
            raise TypeError(f"attacks: expected attacks such as rr.attacks.PGD(...), got {attack!r}")
        if attack.mirrors:
            raise ValueError(f"attacks: expected attacks that do harm, got {attack!r}, which does the opposite")
    if not attacks:
        raise ValueError("attacks: expected at least one, got none")
    threats = {repr(attack.threat): attack.threat for attack in attacks}
    if len(threats) > 1:
        raise ValueError(f"attacks: expected one threat for all, got {sorted(threats)}: no budget, no worst case")
    answers = tuple(a for a in attacks[0].answers if all(a in attack.answers for attack in attacks))
    if not answers:
        raise ValueError(f"attacks: expected attacks that fit a task in common, got {attacks}")
    return attacks[0].threat, answers
