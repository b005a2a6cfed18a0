"""Sets and reports are bound to all that acts: functions, and modules within attacks; what does not fit leaves no folder."""

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import Gain, photos

import robustrestore as rr
from robustrestore.adversarial_set import craft
from robustrestore.identity import of_settings
from robustrestore.integrations.called import Called

THREAT, TASK = rr.Linf(4 / 255), rr.tasks.Restoration()
PGD = rr.attacks.PGD(THREAT, steps=2)
BATCHES = [(photos(), photos())]


class Scaled(nn.Module):
    """Two of these differ in a number that is neither in the weights nor in the repr."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale


class Brighter:
    """An attack by a call of the object and by a method."""

    def __init__(self, by: float) -> None:
        self.by = by

    def run(self, model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        return images + self.by

    __call__ = run


def _edited(k: int) -> rr.Attack:
    """The same name in the same module, edited."""
    exec(f"def step(model, images, target):\n    return images + {k} / 255", vars(sys.modules["mine"]))
    return Called(THREAT, "mine:step")


def _features(k: int) -> nn.Module:
    with rr.seeded(k):
        return nn.Conv2d(3, 2, 3)


MAKERS = {
    "edited function": _edited,
    "bound method": lambda k: Called(THREAT, Brighter(k / 255).run),
    "callable object": lambda k: Called(THREAT, Brighter(k / 255)),
    "attribute of a source": lambda k: rr.attacks.Transfer(PGD, Scaled(k)),
    "weights of a source": lambda k: rr.attacks.Worst([PGD, rr.attacks.Transfer(PGD, Gain(float(k)))]),
    "network of a loss": lambda k: PGD.replace(loss=rr.losses.Perceptual(_features(k))),
    "network of a loss, deeper": lambda k: rr.attacks.Sequence([PGD.replace(loss=rr.losses.Perceptual(_features(k)))]),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_results_are_bound_to_what_acts(
    make: Callable[[int], rr.Attack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mine", types.ModuleType("mine"))

    def text(k: int) -> str:
        attack = make(k)
        assert " at 0x" not in repr(attack) + of_settings(attack)
        return repr(attack) + of_settings(attack)

    assert text(1) == text(1)
    assert text(1) != text(2)
    for k in (1, 1):
        craft(Gain(0.9), BATCHES, TASK, make(k), tmp_path / "set")
        rr.evaluate(rr.DefendedPipeline(Gain(0.9)), BATCHES, TASK, [make(k)], folder=tmp_path / "report")
    with pytest.raises(ValueError, match=r"differs in \['attack'\]"):
        craft(Gain(0.9), BATCHES, TASK, make(2), tmp_path / "set")
    with pytest.raises(ValueError, match=r"differs in \['(attacks|weights)'"):
        rr.evaluate(rr.DefendedPipeline(Gain(0.9)), BATCHES, TASK, [make(2)], folder=tmp_path / "report")


def test_an_attack_that_does_not_fit_leaves_the_folder_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="DeepFool: expected an objective of classification, got one of restoration"):
        craft(Gain(), BATCHES, TASK, rr.attacks.DeepFool(THREAT), tmp_path / "set")
    assert not (tmp_path / "set").exists()
    assert torch.equal(craft(Gain(), BATCHES, TASK, PGD, tmp_path / "set").batch(0).clean, photos())
