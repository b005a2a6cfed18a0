"""What every registered attack has to survive, whatever its paper: a case of test_promises.CASES is enough to be tested."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_promises import CASES
from torch import nn
from toys import photos

import robustrestore as rr
from robustrestore import checks

pytestmark = pytest.mark.usefixtures("peers")  # stand-ins for libraries that are not installed
CLASSES = 5  # some losses look at the fourth largest score
BATCHED = {"foolbox", "torchattacks"}  # a peer's draws depend on the batch: said in their docstrings


def _model(answer: str) -> nn.Module:
    with rr.seeded(6):
        return {
            "label": nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, CLASSES)),
            "map": nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, CLASSES, 1)),
            "image": nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 3, 1)),
        }[answer].double()


def _objective(answer: str, images: torch.Tensor, outputs: torch.Tensor, right: bool = True) -> rr.Objective:
    """Untargeted: away from what the model says now, or from something that it does not say."""
    if answer == "image":
        return rr.tasks.Restoration().untargeted(outputs.clamp(0, 1) if right else images)
    labels = (outputs.argmax(1) + (0 if right else 1)) % CLASSES
    if answer == "label":
        return rr.tasks.Classification().untargeted(labels)
    labels[:, :2, :2] = 255
    return rr.tasks.Segmentation().untargeted(labels)


def _sized(attack: rr.Attack, eps: float) -> rr.Attack:
    """The same attack with another size of its threat, that of attacks within it too."""

    def changed(value: object) -> object:
        if isinstance(value, rr.Threat):
            return value.replace(eps=eps)
        if isinstance(value, rr.Attack):
            return _sized(value, eps)
        return [changed(one) for one in value] if isinstance(value, list) else value

    made = attack.replace(**{name: changed(value) for name, value in attack.settings().items()})
    assert made.threat.eps == eps
    return made


def _attack(name: str, answer: str, dtype: torch.dtype = torch.float64) -> rr.Attack:
    if name == "transfer":  # its source has to answer what the model does
        return rr.attacks.Transfer(rr.attacks.FGSM(rr.Linf(4 / 255)), _model(answer).to(dtype))
    attack = CASES["attacks"][name]() if name in CASES["attacks"] else rr.Attack.named(name)(rr.Linf(4 / 255))
    assert isinstance(attack, rr.Attack)
    return attack


def _ours() -> list[tuple[str, str]]:
    """Every registered attack of ours with every task that it answers; one that needs a case and has none fails its tests."""
    found: list[tuple[str, str]] = []
    for name in rr.Attack.names():
        if rr.Attack.named(name).__module__.startswith("robustrestore."):
            try:
                answers = _attack(name, "label").answers
            except TypeError:
                answers = ("label",)
            found += [(name, answer) for answer in answers]
    return found


EVERY = pytest.mark.parametrize(("name", "answer"), _ours())


@EVERY
def test_no_size_no_change(name: str, answer: str) -> None:
    images, model = photos(2, 7, 9).double(), _model(answer)
    found = _sized(_attack(name, answer), 0.0)(model, images, _objective(answer, images, model(images)))
    torch.testing.assert_close(found, images, atol=1e-12, rtol=0)


@EVERY
def test_a_constant_model(name: str, answer: str) -> None:
    images, inner = photos(2, 7, 9).double(), _model(answer)
    constant = inner(torch.full_like(images, 0.5)).detach()

    def model(x: torch.Tensor) -> torch.Tensor:
        return constant[: len(x)] + 0 * x.mean()

    attack = _attack(name, answer)
    found = attack(model, images, _objective(answer, images, constant))
    assert found.isfinite().all()
    assert (attack.threat.size(found - images) <= attack.threat.eps * (1 + 1e-5) + 1e-6).all()


@EVERY
def test_nan_outputs_are_named(name: str, answer: str) -> None:
    images, inner = photos(2, 7, 9).double(), _model(answer)
    objective = _objective(answer, images, inner(images))
    with pytest.raises(ValueError, match="NaN"):
        _attack(name, answer)(lambda x: inner(x) * float("nan"), images, objective)


@EVERY
@pytest.mark.parametrize(
    ("shape", "right", "dtype"),
    [((1, 7, 9), True, torch.float32), ((2, 8, 5), True, torch.float64), ((2, 7, 9), False, torch.float32)],
    ids=["one of odd size", "float64", "already wrong"],
)
def test_promises(name: str, answer: str, shape: tuple[int, int, int], right: bool, dtype: torch.dtype) -> None:
    images, model = photos(*shape).to(dtype), _model(answer).to(dtype)
    objective = _objective(answer, images, model(images).detach(), right)
    checks.check_attack(_attack(name, answer, dtype), model, images, objective)


@EVERY
def test_no_images(name: str, answer: str) -> None:
    images, model = photos(1, 7, 9).double(), _model(answer)
    objective = _objective(answer, images, model(images).detach()).at(torch.zeros(0, dtype=torch.long))
    assert _attack(name, answer)(model, images[:0], objective).shape == (0, 3, 7, 9)


@EVERY
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_graph(name: str, answer: str, mode: Callable[[], torch.no_grad]) -> None:
    images, model = photos(2, 7, 9).double(), _model(answer)
    attack = _attack(name, answer)
    wanted = attack(model, images, _objective(answer, images, model(images).detach()))
    with mode():
        found = attack(model, images.clone(), _objective(answer, images, model(images)))
    assert torch.equal(found, wanted)


@EVERY
def test_batch_mates_do_not_matter(name: str, answer: str) -> None:
    images, model = photos(3, 7, 9).double(), _model(answer)
    objective, attack = _objective(answer, images, model(images).detach()), _attack(name, answer)
    whole = attack(model, images, objective)
    single = torch.cat([attack(model, images[k : k + 1], objective.at(torch.tensor([k]))) for k in range(3)])
    if name in BATCHED:
        assert whole.shape == single.shape
        return
    torch.testing.assert_close(whole, single, atol=1e-6, rtol=0)


@EVERY
def test_a_judged_objective(name: str, answer: str) -> None:
    images, model = photos(3, 7, 9).double(), _model(answer)
    objective = _objective(answer, images, model(images).detach()).judged()
    mixed = objective.target.clone()
    if answer != "image":
        mixed[0] = (mixed[0] + 1) % CLASSES  # wrong from the start: nothing is left to lose
    attack = _attack(name, answer)
    goal = replace(objective, target=mixed)
    found = attack(model, images, goal)
    assert (attack.threat.size(found - images) <= attack.threat.eps * (1 + 1e-5) + 1e-6).all()
    if attack.ascends and not attack.mirrors:
        assert (goal.harm(model(found)) >= goal.harm(model(images)) - 1e-6).all()
