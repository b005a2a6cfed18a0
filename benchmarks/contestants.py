"""The peers, each driven as its documentation shows, as functions (model, images, target) -> attacked images."""

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor, nn

Run = Callable[[nn.Module, Tensor, Tensor], Tensor]


def installed(eps: float, step: float, steps: int) -> tuple[dict[str, Run], list[str]]:
    """Those that are installed, by name; and the names of those that are not."""
    found, absent = {}, []
    for name, (module, make) in _PEERS.items():
        try:
            import_module(module)
            found[name] = make(eps, step, steps)
        except ImportError:
            absent.append(name)
    return found, absent


def _torchattacks(eps: float, step: float, steps: int) -> Run:
    import torchattacks

    return lambda model, images, target: torchattacks.PGD(model, eps=eps, alpha=step, steps=steps)(images, target)


def _torchattacks_apgd(eps: float, step: float, steps: int) -> Run:
    import torchattacks

    return lambda model, images, target: torchattacks.APGD(model, eps=eps, steps=steps)(images, target)


def _foolbox(eps: float, step: float, steps: int) -> Run:
    import foolbox

    def run(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
        attack = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps)
        return attack(wrapped, images, foolbox.criteria.Misclassification(target), epsilons=eps)[1]

    return run


def _art(eps: float, step: float, steps: int) -> Run:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    def run(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            classes = model(images[:1]).shape[1]
        device = "gpu" if images.is_cuda else "cpu"
        wrapped = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), tuple(images.shape[1:]), classes, clip_values=(0, 1), device_type=device
        )
        attack = ProjectedGradientDescentPyTorch(
            wrapped, eps=eps, eps_step=step, max_iter=steps, num_random_init=1, batch_size=len(images), verbose=False
        )
        return torch.from_numpy(attack.generate(images.cpu().numpy(), target.cpu().numpy()))

    return run


def _torchattack(eps: float, step: float, steps: int) -> Run:
    from torchattack import PGD

    def run(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        return PGD(model, device=images.device, eps=eps, alpha=step, steps=steps)(images, target)

    return run


def _adv_lib(eps: float, step: float, steps: int) -> Run:
    from adv_lib.attacks import pgd_linf

    def run(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        return pgd_linf(model, images, target, eps, steps=steps, absolute_step_size=step)

    return run


def _autoattack(eps: float, step: float, steps: int) -> Run:
    from pyautoattack.autopgd_base import APGDAttack

    def run(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        attack = APGDAttack(model, n_iter=steps, norm="Linf", eps=eps, device=images.device, verbose=False)
        found = attack.perturb(images, target, best_loss=True)
        return found[0] if isinstance(found, tuple) else found

    return run


_PEERS: dict[str, tuple[str, Callable[[float, float, int], Run]]] = {
    "torchattacks PGD": ("torchattacks", _torchattacks),
    "torchattacks APGD": ("torchattacks", _torchattacks_apgd),
    "foolbox LinfPGD": ("foolbox", _foolbox),
    "ART PGD": ("art", _art),
    "torchattack PGD": ("torchattack", _torchattack),
    "adv-lib pgd_linf": ("adv_lib", _adv_lib),
    "AutoAttack APGD": ("pyautoattack", _autoattack),
}
