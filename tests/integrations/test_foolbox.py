"""Attacks of foolbox as ours and ours as theirs; with the real library where it is installed, else with a stand-in."""

import importlib.util
import random
import sys

import numpy as np
import pytest
import torch
from torch import nn
from toys import Linear2, Moody, PixelSegmenter, photos
from toys_peers import fake_foolbox

import robustrestore as rr
from robustrestore import checks, spec
from robustrestore.integrations.foolbox import AsFoolbox, Foolbox

REAL = importlib.util.find_spec("foolbox") is not None
EPS = 4 / 255


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.skipif(not REAL, reason="needs foolbox"))])
def peer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "foolbox", fake_foolbox())
    return request.param


def linear() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model, images = Linear2(), photos(3, 6, 6)
    return model, images, model(images).argmax(1)


def optimum(model: Linear2, images: torch.Tensor, labels: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    away = torch.where(labels.view(-1, 1, 1, 1) == 0, -1.0, 1.0)
    return (images + eps * away * model.weight.detach().sign()).clamp(0, 1)


def test_pgd_reaches_the_optimum_of_a_linear_model(peer: str) -> None:
    model, images, labels = linear()
    goal = rr.tasks.Classification().untargeted(labels)
    attack = Foolbox(rr.Linf(EPS), "LinfPGD", {"steps": 5, "rel_stepsize": 1.0})
    torch.testing.assert_close(attack(model, images, goal), optimum(model, images, labels), atol=1e-6, rtol=0)
    checks.check_attack(attack, model, images, goal)
    torch.testing.assert_close(attack(model, images - 5e-5, goal), optimum(model, images, labels), atol=1e-4, rtol=0)


def test_targeted_and_mirrored_goals_turn_the_sign(peer: str) -> None:
    model, images, labels = linear()
    task, attack = rr.tasks.Classification(), Foolbox(rr.Linf(EPS), "LinfPGD", {"steps": 5, "rel_stepsize": 1.0})
    away, kept = optimum(model, images, labels), optimum(model, images, 1 - labels)
    for goal, best in ((task.targeted(1 - labels), away), (task.untargeted(labels).mirrored(), kept)):
        torch.testing.assert_close(attack(model, images, goal), best, atol=1e-6, rtol=0)


def test_the_model_and_all_generators_are_left_as_found(peer: str) -> None:
    net = nn.Sequential(Moody(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    net[0].drop.eval()
    modes, before = [m.training for m in net.modules()], {k: v.clone() for k, v in net.state_dict().items()}
    states = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    goal = rr.tasks.Classification().untargeted(torch.tensor([0, 1, 2]))
    attack = Foolbox(rr.Linf(EPS), "LinfPGD", {"steps": 2})
    found = attack(net, photos(3, 8, 8), goal)
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    assert torch.equal(found, attack(net, photos(3, 8, 8), goal))
    assert not torch.equal(found, attack.replace(seed=1)(net, photos(3, 8, 8), goal))


def test_an_attack_without_a_norm_of_its_own_measures_as_the_threat(peer: str) -> None:
    model, images, labels = linear()
    name = "BlendAttack" if peer == "stand-in" else "LinearSearchBlendedUniformNoiseAttack"
    attack = Foolbox(rr.L2(0.2) if peer == "real" else rr.Linf(EPS), name)
    checks.check_attack(attack, model, images, rr.tasks.Classification().untargeted(labels))


@pytest.mark.parametrize(
    ("threat", "name", "options", "message"),
    [
        (rr.Linf(EPS), "LinfPDG", {}, "attack: expected a class of foolbox.attacks among .*got 'LinfPDG'"),
        (rr.Linf(EPS), "Attack", {}, "attack: expected a class of foolbox.attacks among"),
        (rr.Linf(EPS), "LinfPGD", {"stepz": 2}, r"expected settings of .* among .*'steps'.*got \['stepz'\]"),
        (rr.L2(0.5), "LinfPGD", {}, r"threat: expected one that LinfPGD measures by \(Linf\), got L2"),
    ],
)
def test_what_does_not_fit_is_refused(peer: str, threat: rr.Threat, name: str, options: dict, message: str) -> None:
    model, images, labels = linear()
    with pytest.raises(ValueError, match=message):
        Foolbox(threat, name, options)(model, images, rr.tasks.Classification().untargeted(labels))


def test_an_attack_that_no_norm_measures_is_refused(peer: str) -> None:
    model, images, labels = linear()
    name = "TurnAttack" if peer == "stand-in" else "SpatialAttack"
    with pytest.raises(ValueError, match=r"measures by \(no norm\)"):
        Foolbox(rr.Linf(EPS), name)(model, images, rr.tasks.Classification().untargeted(labels))


def test_label_maps_are_refused() -> None:
    labels = torch.zeros(2, 16, 20, dtype=torch.long)
    with pytest.raises(TypeError, match="Foolbox: expected an objective of classification, got one of segmentation"):
        Foolbox(rr.Linf(EPS), "LinfPGD")(PixelSegmenter(), photos(), rr.tasks.Segmentation().untargeted(labels))


def test_settings_are_plain_and_no_threat_of_size_zero_asks_the_peer() -> None:
    attack = Foolbox(rr.Linf(8 / 255), "LinfPGD", {"steps": 20})
    checks.check_component(attack)
    assert repr(spec.part(repr(attack), "attacks")) == repr(attack)
    model, images, labels = linear()
    goal = rr.tasks.Classification().untargeted(labels)
    assert torch.equal(Foolbox(rr.Linf(0), "LinfPGD")(model, images, goal), images)


def test_without_foolbox_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    model, images, labels = linear()
    with pytest.raises(ImportError, match=r"Foolbox needs foolbox: pip install 'robustrestore\[attacks\]'"):
        Foolbox(rr.Linf(EPS), "LinfPGD")(model, images, rr.tasks.Classification().untargeted(labels))


def test_ours_is_called_like_theirs(peer: str) -> None:
    model, images, labels = linear()
    module, task = sys.modules.get("foolbox") or importlib.import_module("foolbox"), rr.tasks.Classification()
    theirs = module.PyTorchModel(model.eval(), bounds=(0, 1), device=images.device)
    ours, call = rr.attacks.PGD(rr.Linf(EPS), steps=3), AsFoolbox(rr.attacks.PGD(rr.Linf(0.5), steps=3))
    raw, clipped, hit = call(theirs, images, labels, epsilons=EPS)
    expected = ours(model, images, task.untargeted(labels))
    assert torch.equal(raw, expected)
    assert torch.equal(clipped, expected)
    assert torch.equal(hit, model(expected).argmax(1) != labels)
    raws, _, hits = call(theirs, images, module.criteria.Misclassification(labels), epsilons=[EPS, 0.3])
    assert torch.equal(raws[0], expected)
    assert hits.shape == (2, 3)
    assert hits[1].all()
    wanted, _, hit = call(theirs, images, module.criteria.TargetedMisclassification(1 - labels), epsilons=0.3)
    assert torch.equal(wanted, rr.attacks.PGD(rr.Linf(0.3), steps=3)(model, images, task.targeted(1 - labels)))
    assert hit.all()
    other = module.PyTorchModel(model, bounds=(-1, 1), device=images.device)
    with pytest.raises(ValueError, match=r"expected bounds \(0, 1\), got \(-1, 1\)"):
        call(other, images, labels, epsilons=EPS)
