"""torchattacks (Kim, 2020): any of its attacks as one of ours, and ours where it expects one of its own."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from ..attack import Attack, Model
from ..task import Answer, Objective, Task
from ..threat import Threat, as_threat
from ._peers import Options, Sealed, as_pairs, better_of, drawing, parameters, peer

# Those that take the plain cross-entropy of all positions and leave the image in its place: by grace of PyTorch's
# loss they serve label maps too. The others read one label an image, or resize the image and not the map.
_MAPS = frozenset(
    "FGSM BIM RFGSM PGD PGDL2 EOTPGD FFGSM MIFGSM NIFGSM SINIFGSM VMIFGSM VNIFGSM UPGD".split()  # noqa: SIM905
)
_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1", "l0": "L0"}
_BUDGETS = ("eps", "max_epsilon")
_IGNORED = -100  # what PyTorch's cross-entropy leaves out


class TorchAttacks(Attack, name="torchattacks"):
    """An attack of torchattacks (Kim, 2020) by its class name: `TorchAttacks(Linf(8 / 255), "PGD", {"steps": 20})`.

    `options`: arguments of that class, kept as pairs; what is left out has the peer's default, which was made for 8/255.
    Its size, norm, class count and seed are set from the threat, the model and `seed`. An attack without a size of its own
    is cut to the threat. It climbs its own loss, not the objective's measure; per image the better one, clean or attacked,
    is kept. Its draws depend on the batch. For label maps only what takes plain cross-entropy fits. Raises ImportError
    without torchattacks, ValueError for unknown names and for a norm or size that is not the threat's.
    """

    answers: tuple[Answer, ...] = ("label", "map")

    def __init__(self, threat: Threat, attack: str, options: Options = (), seed: int | None = 0) -> None:
        self.threat, self.attack, self.options, self.seed = as_threat(threat), attack, as_pairs(options), seed
        self.answers = ("label", "map") if attack in _MAPS else ("label",)

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """What the peer finds, or the original where that serves the objective more."""
        if self.threat.eps == 0 or len(images) == 0:
            return images
        labels = objective.target.long()
        if objective.reading.ignore is not None:
            labels = labels.where(labels != objective.reading.ignore, _IGNORED)
        with drawing(self.seed) as seed:
            made = self._made(Sealed(model, images), images, seed)
            if objective.wants:
                _aim(made)
            found = made(images.clamp(0, 1), labels)
        return better_of(model, images, found, self, objective)

    def _made(self, model: Sealed, images: Tensor, seed: int) -> Any:
        module = peer("torchattacks", "TorchAttacks")
        known = sorted(set(module.__all__) - set(module.__wrapper__))
        if self.attack not in known:
            raise ValueError(f"attack: expected a class of torchattacks among {known}, got {self.attack!r}")
        made, given = getattr(module, self.attack), {str(name): value for name, value in self.options}
        names = parameters(made, given, own=("model",))
        budget = next((name for name in _BUDGETS if name in names), None)
        norm = _NORMS.get(str(self.threat.name))
        self._fits(made, budget, norm, given)
        ours = {budget: self.threat.eps, "norm": norm, "seed": seed}
        if "n_classes" in names and "n_classes" not in given:
            with torch.no_grad():
                ours["n_classes"] = model(images[:1]).shape[1]
        return made(model, **{name: value for name, value in ours.items() if name in names} | given)

    def _fits(self, made: Any, budget: str | None, norm: str | None, given: dict[str, Any]) -> None:
        """Raise unless an attack with a size of its own measures it as the threat does."""
        if budget is None:
            return
        said = re.search(r"Distance Measure\s*:\s*(.+)", made.__doc__ or "")
        measures = re.findall(r"L(?:inf|\d)", said.group(1)) if said else [norm]
        if norm not in measures or given.get("norm", norm) != norm:
            asked = given.get("norm", " or ".join(str(name) for name in measures))
            raise ValueError(f"threat: expected one that {self.attack} measures by ({asked}), got {self.threat!r}")
        if given.get(budget, 0) > self.threat.eps * (1 + 1e-6):
            raise ValueError(f"options: expected {budget} within {self.threat!r}, got {given[budget]}: what is more is cut off")


class AsTorchAttacks:
    """One of our attacks, called as torchattacks calls its own: `(images, labels) -> attacked images`.

    For code written around torchattacks: `MultiAttack`, evaluation loops. Modes as there: default, or targeted by label.
    """

    def __init__(self, attack: Attack, model: nn.Module, task: Task) -> None:
        self.ours, self.model, self.task = attack, model, task
        self.attack, self.attack_mode, self.targeted = type(attack).__name__, "default", False
        self.supported_mode = ["default", "targeted"]

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Attacked images; `labels` as the task wants them, the truth or, when targeted, what is wanted."""
        goal = self.task.targeted(labels) if self.targeted else self.task.untargeted(labels)
        return self.ours(self.model, images, goal)

    def set_mode_default(self) -> None:
        """Lead away from the labels."""
        self.attack_mode, self.targeted = "default", False

    def set_mode_targeted_by_label(self, quiet: bool = True) -> None:
        """Lead to the labels; nothing is printed either way."""
        self.attack_mode, self.targeted = "targeted(label)", True

    def __repr__(self) -> str:
        return f"AsTorchAttacks({self.ours!r}, {type(self.model).__name__}, {self.task!r}, mode={self.attack_mode})"


def _aim(made: Any) -> None:
    try:
        made.set_mode_targeted_by_label(quiet=True)
    except ValueError as error:
        raise ValueError(f"{type(made).__name__}: expected an attack with a targeted mode, it has none: {error}") from error
