"""Stand-ins for other attack libraries, with their interfaces and their bad habits, for machines without them."""

import abc
import math
import types

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _TheirAttack:
    """The base of torchattacks: modes changed and not put back, device and normalisation looked up in the model."""

    def __init__(self, name: str, model: nn.Module) -> None:
        self.attack, self.model = name, model
        self.device = next(model.parameters()).device
        self.targeted, self.supported_mode = False, ["default"]

    def set_mode_targeted_by_label(self, quiet: bool = False) -> None:
        if "targeted" not in self.supported_mode:
            raise ValueError("Targeted mode is not supported.")
        if not quiet:
            print("Attack mode is changed to 'targeted(label).'")
        self.targeted = True

    def __call__(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        training = self.model.training
        self.model.eval()
        found = self.forward(inputs.to(self.device), labels.to(self.device))
        if training:
            self.model.train()
        return found

    def _gradient(self, images: Tensor, labels: Tensor) -> Tensor:
        leaf = images.detach().requires_grad_()
        cost = nn.CrossEntropyLoss()(self.model(leaf), labels)
        return torch.autograd.grad(-cost if self.targeted else cost, leaf)[0]


class _TheirPGD(_TheirAttack):
    """Projected gradient descent.

    Distance Measure : Linf
    """

    def __init__(self, model: nn.Module, eps=8 / 255, alpha=2 / 255, steps=10, random_start=True) -> None:
        super().__init__("PGD", model)
        self.eps, self.alpha, self.steps, self.random_start = eps, alpha, steps, random_start
        self.supported_mode = ["default", "targeted"]

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        found = images
        if self.random_start:
            found = (images + torch.empty_like(images).uniform_(-self.eps, self.eps)).clamp(0, 1)
        for _ in range(self.steps):
            found = found + self.alpha * self._gradient(found, labels).sign()
            found = (images + (found - images).clamp(-self.eps, self.eps)).clamp(0, 1)
        return found


class _TheirBIM(_TheirPGD):
    """The same from the image.

    Distance Measure : Linf
    """

    def __init__(self, model: nn.Module, eps=8 / 255, alpha=2 / 255, steps=10) -> None:
        super().__init__(model, eps, alpha, steps, random_start=False)


class _TheirPGDL2(_TheirAttack):
    """Projected gradient descent.

    Distance Measure : L2
    """

    def __init__(self, model: nn.Module, eps=1.0, alpha=0.2, steps=10, random_start=True) -> None:
        super().__init__("PGDL2", model)
        self.eps, self.alpha, self.steps = eps, alpha, steps

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        found = images
        for _ in range(self.steps):
            gradient = self._gradient(found, labels)
            found = found + self.alpha * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp(min=1e-10)
            delta = found - images
            delta = delta * (self.eps / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp(min=1e-10)).clamp(max=1)
            found = (images + delta).clamp(0, 1)
        return found


class _TheirAPGD(_TheirAttack):
    """Seeds the global generator.

    Distance Measure : Linf, L2
    """

    def __init__(self, model: nn.Module, norm="Linf", eps=8 / 255, steps=10, seed=0, n_classes=10) -> None:
        super().__init__("APGD", model)
        self.norm, self.eps, self.seed, self.n_classes = norm, eps, seed, n_classes

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        import random

        import numpy as np

        torch.random.manual_seed(self.seed)
        np.random.seed(1)
        random.seed(1)
        if self.model(images).shape[1] != self.n_classes:
            raise IndexError(f"{self.n_classes} classes")
        gradient = self._gradient(images, labels)
        if self.norm == "Linf":
            return (images + self.eps * gradient.sign()).clamp(0, 1)
        return (images + self.eps * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)


class _TheirCW(_TheirAttack):
    """No size of its own, `backward()` through everything, and it leaves the box.

    Distance Measure : L2
    """

    def __init__(self, model: nn.Module, c=1, steps=3) -> None:
        super().__init__("CW", model)
        self.c, self.steps = c, steps

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        found = images
        for _ in range(self.steps):
            leaf = found.detach().requires_grad_()
            F.cross_entropy(self.model(leaf), labels).backward()
            found = found + self.c * leaf.grad.sign()
        return found


def towards_grey(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """An attack of no library, for every task."""
    return images + 0.1 * (0.5 - images)


def fake_torchattacks() -> types.ModuleType:
    """A module with torchattacks' names."""
    module = types.ModuleType("torchattacks")
    classes = {"PGD": _TheirPGD, "BIM": _TheirBIM, "PGDL2": _TheirPGDL2, "APGD": _TheirAPGD, "CW": _TheirCW}
    vars(module).update(classes)
    module.__all__, module.__wrapper__ = [*classes, "MultiAttack"], ["MultiAttack"]
    return module


class _Lp:
    def __init__(self, p: float) -> None:
        self.p = p


class _Native:
    """An eagerpy tensor: the torch one is `raw`."""

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw


class _Misclassification:
    def __init__(self, labels: Tensor) -> None:
        self.labels = _Native(labels)


class _TargetedMisclassification:
    def __init__(self, target_classes: Tensor) -> None:
        self.target_classes = _Native(target_classes)


class _PyTorchModel:
    def __init__(self, model: nn.Module, bounds: tuple[float, float], device: object = None) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError("expected model to be a torch.nn.Module instance")
        self.bounds, self._model = bounds, model.to(device)

    def __call__(self, inputs: Tensor) -> Tensor:
        with torch.set_grad_enabled(inputs.requires_grad):
            return self._model(inputs)


class _FoolAttack(abc.ABC):
    @abc.abstractmethod
    def __call__(self, model, inputs, criterion, *, epsilons): ...


class _FoolPGD(_FoolAttack):
    distance = _Lp(math.inf)

    def __init__(self, *, rel_stepsize=0.025, steps=50, random_start=True) -> None:
        self.rel_stepsize, self.steps, self.random_start = rel_stepsize, steps, random_start

    def __call__(self, model, inputs, criterion, *, epsilons):
        assert inputs.min() >= 0
        assert inputs.max() <= 1
        wanted = hasattr(criterion, "target_classes")
        labels = (criterion.target_classes if wanted else criterion.labels).raw
        found = inputs + (torch.rand_like(inputs) * 2 - 1) * epsilons if self.random_start else inputs
        for _ in range(self.steps):
            leaf = found.detach().requires_grad_()
            (F.cross_entropy(model(leaf), labels) * (-1 if wanted else 1)).backward()
            found = found.detach() + self.rel_stepsize * epsilons * leaf.grad.sign()
            found = (inputs + (found - inputs).clamp(-epsilons, epsilons)).clamp(0, 1)
        hit = model(found).argmax(1) == labels
        return found, found, hit if wanted else ~hit


class _FoolBlend(_FoolAttack):
    def __init__(self, *, distance=None) -> None:
        self.distance = distance

    def __call__(self, model, inputs, criterion, *, epsilons):
        found = inputs + (0.5 - inputs).clamp(-epsilons, epsilons)
        return found, found, model(found).argmax(1) != criterion.labels.raw


class _FoolTurn(_FoolAttack):
    def __call__(self, model, inputs, criterion, *, epsilons):
        return inputs.flip(2), inputs.flip(2), None


def fake_foolbox() -> types.ModuleType:
    """A module with foolbox' names."""
    module, attacks, base, criteria, distances = (
        types.ModuleType(f"foolbox{tail}") for tail in ("", ".attacks", ".attacks.base", ".criteria", ".distances")
    )
    base.Attack, attacks.base, attacks.Attack = _FoolAttack, base, _FoolAttack
    attacks.LinfPGD, attacks.BlendAttack, attacks.TurnAttack = _FoolPGD, _FoolBlend, _FoolTurn
    criteria.Misclassification, criteria.TargetedMisclassification = _Misclassification, _TargetedMisclassification
    distances.LpDistance = _Lp
    module.attacks, module.criteria, module.distances, module.PyTorchModel = attacks, criteria, distances, _PyTorchModel
    return module
