"""Attacks of torchattacks as ours and ours as theirs; with the real library where it is installed, else with a stand-in."""

import importlib.util
import random
import sys

import numpy as np
import pytest
import torch
from torch import nn
from toys import Gain, Linear2, Moody, PixelSegmenter, photos
from toys_peers import fake_torchattacks

import robustrestore as rr
from robustrestore import checks, spec
from robustrestore.integrations.torchattacks import AsTorchAttacks, TorchAttacks

REAL = importlib.util.find_spec("torchattacks") is not None
EPS = 4 / 255


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.skipif(not REAL, reason="needs torchattacks"))])
def peer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "torchattacks", fake_torchattacks())
    return request.param


def linear() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model, images = Linear2(), photos(3, 6, 6)
    return model, images, model(images).argmax(1)


def moody() -> nn.Module:
    """A classifier with batch norm and dropout, its parts in different modes."""
    net = nn.Sequential(Moody(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    net[0].drop.eval()
    return net


def optimum(model: Linear2, images: torch.Tensor, labels: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    away = torch.where(labels.view(-1, 1, 1, 1) == 0, -1.0, 1.0)
    return (images + eps * away * model.weight.detach().sign()).clamp(0, 1)


def test_pgd_reaches_the_optimum_of_a_linear_model(peer: str) -> None:
    model, images, labels = linear()
    attack = TorchAttacks(rr.Linf(EPS), "PGD", {"steps": 5, "alpha": EPS})
    found = attack(model, images, rr.tasks.Classification().untargeted(labels))
    torch.testing.assert_close(found, optimum(model, images, labels), atol=1e-6, rtol=0)
    checks.check_attack(attack, model, images, rr.tasks.Classification().untargeted(labels))


def test_l2_and_named_norms_follow_the_threat(peer: str) -> None:
    model, images, labels = linear()
    images = images * 0.5 + 0.25
    sign = torch.where(labels == 0, -1.0, 1.0).view(-1, 1, 1, 1)
    best = images + 0.1 * sign * (model.weight / model.weight.norm()).detach()
    goal = rr.tasks.Classification().untargeted(labels)
    found = TorchAttacks(rr.L2(0.1), "PGDL2", {"steps": 20, "alpha": 0.05, "random_start": False})(model, images, goal)
    torch.testing.assert_close(found, best, atol=1e-4, rtol=0)
    moved = TorchAttacks(rr.L2(0.1), "APGD")(model, images, goal) - images
    assert moved.flatten(1).norm(dim=1).max() <= 0.1 + 1e-6


def test_targeted_and_mirrored_goals_turn_the_sign(peer: str) -> None:
    model, images, labels = linear()
    task, attack = rr.tasks.Classification(), TorchAttacks(rr.Linf(EPS), "BIM", [["steps", 5], ["alpha", EPS]])
    away, wanted = optimum(model, images, labels), optimum(model, images, 1 - labels)
    for goal, best in (
        (task.targeted(1 - labels), away),
        (task.targeted(labels), wanted),
        (task.untargeted(labels).mirrored(), wanted),
        (task.targeted(labels).mirrored(), away),
    ):
        torch.testing.assert_close(attack(model, images, goal), best, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["PGD", "APGD", "CW"])
def test_the_model_and_all_generators_are_left_as_found(peer: str, name: str) -> None:
    net, images = moody(), photos(3, 8, 8)
    labels = torch.tensor([0, 1, 2])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    states = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    TorchAttacks(rr.Linf(EPS), name, {"steps": 2})(net, images, rr.tasks.Classification().untargeted(labels))
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]


def test_a_seed_repeats_and_none_follows_the_global_generator(peer: str) -> None:
    net, images = moody(), photos(3, 8, 8)
    goal = rr.tasks.Classification().untargeted(torch.tensor([0, 1, 2]))
    attack = TorchAttacks(rr.Linf(EPS), "PGD", {"steps": 1, "alpha": 0.001})
    assert torch.equal(attack(net, images, goal), attack(net, images, goal))
    assert not torch.equal(attack(net, images, goal), attack.replace(seed=1)(net, images, goal))
    free = attack.replace(seed=None)
    found = []
    for seed in (5, 5, 6):
        with rr.seeded(seed):
            found.append(free(net, images, goal))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_what_leaves_the_threat_is_cut_and_what_does_harm_to_the_goal_is_dropped(peer: str) -> None:
    model, images, labels = linear()
    goal = rr.tasks.Classification().untargeted(labels)
    attack = TorchAttacks(rr.Linf(EPS), "CW", {"steps": 3, "c": 1})  # no size of its own
    checks.check_attack(attack, model, images, goal)
    assert torch.equal(TorchAttacks(rr.Linf(0), "PGD")(model, images, goal), images)


def test_the_class_count_comes_from_the_model(peer: str) -> None:
    images, net = photos(2, 8, 8), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))  # five, not ten
    name = "APGD" if peer == "stand-in" else "APGDT"
    goal = rr.tasks.Classification().untargeted(torch.tensor([0, 1]))
    TorchAttacks(rr.Linf(EPS), name, {"steps": 2})(net, images, goal)
    if peer == "stand-in":
        with pytest.raises(IndexError, match="10 classes"):
            TorchAttacks(rr.Linf(EPS), name, {"n_classes": 10})(net, images, goal)


def test_label_maps_where_plain_cross_entropy_serves_them(peer: str) -> None:
    model, images, task = PixelSegmenter(), photos(2, 9, 7), rr.tasks.Segmentation()
    labels = model(images).argmax(1)
    labels[:, :3] = 255
    found = TorchAttacks(rr.Linf(EPS), "BIM", {"steps": 4, "alpha": EPS})(model, images, task.untargeted(labels))
    moved = found - images
    assert torch.equal(found[:, :, :3], images[:, :, :3])  # ignored labels ask for nothing
    red = torch.where(labels == 0, -EPS, EPS)[:, 3:]
    torch.testing.assert_close(moved[:, 0, 3:], red, atol=1e-6, rtol=0)
    torch.testing.assert_close(moved[:, 1, 3:], -red, atol=1e-6, rtol=0)
    assert moved[:, 2].abs().max() == 0
    for name in ("APGD", "CW"):
        with pytest.raises(TypeError, match="expected an objective of classification, got one of segmentation"):
            TorchAttacks(rr.Linf(EPS), name)(model, images, task.untargeted(labels))
    with pytest.raises(TypeError, match="got one of restoration"):  # images would be read as probabilities
        TorchAttacks(rr.Linf(EPS), "PGD")(Gain(), images, rr.tasks.Restoration().untargeted(images))


@pytest.mark.parametrize(
    ("threat", "name", "options", "message"),
    [
        (rr.Linf(EPS), "PDG", {}, r"attack: expected a class of torchattacks among \['APGD'.*got 'PDG'"),
        (rr.Linf(EPS), "MultiAttack", {}, "attack: expected a class of torchattacks"),
        (rr.Linf(EPS), "PGD", {"stepz": 2}, r"expected settings of .*PGD among .*'steps'.*got \['stepz'\]"),
        (rr.Linf(EPS), "PGD", {"model": 2}, r"got \['model'\]"),
        (rr.Linf(EPS), "PGDL2", {}, r"threat: expected one that PGDL2 measures by \(L2\), got Linf\(eps=4/255\)"),
        (rr.L2(0.5), "PGD", {}, r"expected one that PGD measures by \(Linf\), got L2"),
        (rr.L2(0.5), "APGD", {"norm": "Linf"}, r"expected one that APGD measures by \(Linf\), got L2"),
        (rr.Linf(EPS), "PGD", {"eps": 8 / 255}, r"options: expected eps within Linf\(eps=4/255\), got 0.03"),
    ],
)
def test_what_does_not_fit_is_refused(peer: str, threat: rr.Threat, name: str, options: dict, message: str) -> None:
    model, images, labels = linear()
    with pytest.raises(ValueError, match=message):
        TorchAttacks(threat, name, options)(model, images, rr.tasks.Classification().untargeted(labels))


def test_a_smaller_size_may_be_asked_for(peer: str) -> None:
    model, images, labels = linear()
    attack = TorchAttacks(rr.Linf(EPS), "BIM", {"eps": EPS / 2, "alpha": EPS})
    found = attack(model, images, rr.tasks.Classification().untargeted(labels))
    torch.testing.assert_close(found, optimum(model, images, labels, EPS / 2), atol=1e-6, rtol=0)


def test_a_goal_that_the_peer_cannot_aim_at_says_so(peer: str) -> None:
    model, images, labels = linear()
    task = rr.tasks.Classification()
    for goal in (task.targeted(labels), task.untargeted(labels).mirrored()):
        with pytest.raises(
            ValueError, match="APGD: expected an attack with a targeted mode, it has none: Targeted mode is not"
        ):
            TorchAttacks(rr.Linf(EPS), "APGD")(model, images, goal)


def test_a_model_without_gradient_is_named(peer: str) -> None:
    _, images, labels = linear()
    with pytest.raises(ValueError, match="expected outputs that depend on the images differentiably"):
        TorchAttacks(rr.Linf(EPS), "PGD")(
            lambda x: Linear2()(x.detach()).detach(), images, rr.tasks.Classification().untargeted(labels)
        )


def test_settings_are_plain_and_readable_from_the_command_line() -> None:
    attack = TorchAttacks(rr.Linf(8 / 255), "PGD", {"steps": 20, "random_start": False})
    checks.check_component(attack)
    assert repr(attack) == (
        "TorchAttacks(threat=Linf(eps=8/255), attack='PGD', options=[['steps', 20], ['random_start', False]], seed=0)"
    )
    assert repr(spec.part(repr(attack), "attacks")) == repr(attack)
    with pytest.raises(TypeError, match="expected norm as a number, text, switch or list, got Linf"):
        TorchAttacks(rr.Linf(0.1), "PGD", {"norm": rr.Linf(0.1)})
    with pytest.raises(TypeError, match="expected names with values"):
        TorchAttacks(rr.Linf(0.1), "PGD", [["steps"]])


def test_without_torchattacks_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    model, images, labels = linear()
    with pytest.raises(ImportError, match=r"TorchAttacks needs torchattacks: pip install 'robustrestore\[attacks\]'"):
        TorchAttacks(rr.Linf(EPS), "PGD")(model, images, rr.tasks.Classification().untargeted(labels))


def test_ours_is_called_like_theirs() -> None:
    model, images, labels = linear()
    task, ours = rr.tasks.Classification(), rr.attacks.PGD(rr.Linf(EPS), steps=3)
    theirs = AsTorchAttacks(ours, model, task)
    assert torch.equal(theirs(images, labels), ours(model, images, task.untargeted(labels)))
    theirs.set_mode_targeted_by_label(quiet=True)
    assert torch.equal(theirs(images, 1 - labels), ours(model, images, task.targeted(1 - labels)))
    assert "targeted(label)" in repr(theirs)
    theirs.set_mode_default()
    assert torch.equal(theirs(images, labels), ours(model, images, task.untargeted(labels)))


@pytest.mark.skipif(not REAL, reason="needs torchattacks")
def test_ours_takes_part_in_a_multi_attack() -> None:
    import torchattacks

    model, images, labels = linear()
    ours = AsTorchAttacks(rr.attacks.PGD(rr.Linf(0.3), steps=3), model, rr.tasks.Classification())
    found = torchattacks.MultiAttack([torchattacks.VANILA(model), ours])(images, labels)
    assert (model(found).argmax(1) != labels).all()
