"""foolbox (Rauber, Brendel and Bethge, 2017; Rauber et al., 2020): its attacks as ours, and ours where it expects one."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..attack import Attack, Model
from ..task import Objective, Task
from ..tasks import Classification
from ..threat import Threat, as_threat
from ._peers import Options, Sealed, as_pairs, better_of, drawing, parameters, peer

_NORMS = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}


class Foolbox(Attack, name="foolbox"):
    """An attack of foolbox (Rauber et al., 2020) by its class name: `Foolbox(L2(0.5), "L2DeepFoolAttack", {"steps": 20})`.

    `options`: arguments of that class, kept as pairs. The threat gives the size; its norm has to be the attack's. Attacks
    that look for the smallest change stop once it is that small, and longer changes are cut to it. It climbs its own loss,
    not the objective's measure; per image the better one, clean or attacked, is kept. Its draws depend on the batch.
    Classifiers only: it reads one label an image. Raises ImportError without foolbox, ValueError for names it does not know
    and for another norm than the threat's.
    """

    answers = ("label",)

    def __init__(self, threat: Threat, attack: str, options: Options = (), seed: int | None = 0) -> None:
        self.threat, self.attack, self.options, self.seed = as_threat(threat), attack, as_pairs(options), seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """What the peer finds, or the original where that serves the objective more."""
        if self.threat.eps == 0 or len(images) == 0:
            return images
        module = peer("foolbox", "Foolbox")
        with drawing(self.seed):
            made = self._made(module)
            labels = objective.target.long()
            goal = module.criteria.TargetedMisclassification if objective.wants else module.criteria.Misclassification
            theirs = module.PyTorchModel(Sealed(model, images), bounds=(0, 1), device=images.device)
            _, found, _ = made(theirs, images.clamp(0, 1), goal(labels), epsilons=self.threat.eps)
        return better_of(model, images, found, self, objective)

    def _made(self, module: Any) -> Any:
        root = module.attacks.base.Attack
        found = {n: c for n, c in vars(module.attacks).items() if isinstance(c, type) and issubclass(c, root)}
        classes = {name: cls for name, cls in found.items() if not inspect.isabstract(cls)}
        if self.attack not in classes:
            known = sorted({c.__name__ for c in classes.values()})
            raise ValueError(f"attack: expected a class of foolbox.attacks among {known}, got {self.attack!r}")
        given, norm = {str(name): value for name, value in self.options}, _NORMS.get(str(self.threat.name))
        if "distance" in parameters(classes[self.attack], given) and norm is not None:
            given.setdefault("distance", module.distances.LpDistance(norm))
        made = classes[self.attack](**given)
        measure = getattr(getattr(made, "distance", None), "p", None)
        if measure is None or measure != norm:
            by = "no norm" if measure is None else f"L{measure}"
            raise ValueError(f"threat: expected one that {self.attack} measures by ({by}), got {self.threat!r}")
        return made


class AsFoolbox:
    """One of our attacks, called as foolbox calls its own: `(model, inputs, criterion, *, epsilons) -> raw, clipped, hit`.

    `model`: a foolbox `PyTorchModel` with bounds (0, 1). `criterion`: labels, `Misclassification` or
    `TargetedMisclassification`. Each of `epsilons` takes the place of the size of the attack's threat. The model's mode is the
    caller's, as with foolbox.
    """

    def __init__(self, attack: Attack, task: Task | None = None) -> None:
        self.attack, self.task = attack, Classification() if task is None else task

    def __call__(
        self, model: Any, inputs: Tensor, criterion: Any, *, epsilons: float | Sequence[float]
    ) -> tuple[Any, Any, Tensor]:
        """Attacked images, twice as they are inside already, and which reached the goal; lists and rows for several sizes."""
        if tuple(model.bounds) != (0, 1):
            raise ValueError(f"model: expected bounds (0, 1), got {tuple(model.bounds)}: use model.transform_bounds((0, 1))")
        objective, found, hits = self._objective(criterion), [], []
        several = isinstance(epsilons, Sequence)
        for eps in epsilons if isinstance(epsilons, Sequence) else [epsilons]:
            attack = self.attack.replace(threat=self.attack.threat.replace(eps=eps))
            found.append(attack(model, inputs, objective))
            with torch.no_grad():
                hits.append(objective.reached(model(found[-1])))
        if several:
            return found, list(found), torch.stack(hits)
        return found[0], found[0], hits[0]

    def _objective(self, criterion: Any) -> Objective:
        wanted = getattr(criterion, "target_classes", None)
        if wanted is not None:
            return self.task.targeted(wanted.raw)
        labels = getattr(criterion, "labels", criterion)
        return self.task.untargeted(getattr(labels, "raw", labels))
