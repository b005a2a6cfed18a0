"""Any function as an attack: the promises are kept whatever it does."""

import sys
import types

import pytest
import torch
from toys import Linear2, PixelSegmenter, photos

import robustrestore as rr
from robustrestore import checks, spec
from robustrestore.integrations.called import Called

EPS = 4 / 255


def sign_step(model: torch.nn.Module, images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """One long step that stores gradients everywhere it can and changes modes."""
    model.train()
    leaf = images.requires_grad_()
    torch.nn.functional.cross_entropy(model(leaf), target).backward()
    torch.manual_seed(3)
    return leaf + leaf.grad.sign()


def linear() -> tuple[torch.nn.Module, torch.Tensor, rr.Objective, torch.Tensor]:
    model, images = Linear2(), photos(3, 6, 6)
    labels = model(images).argmax(1)
    return model, images, rr.tasks.Classification().untargeted(labels), labels


def test_a_function_of_a_module_is_an_attack() -> None:
    model, images, goal, labels = linear()
    attack = Called(rr.Linf(EPS), sign_step)
    checks.check_attack(attack, model, images, goal)
    away = torch.where(labels.view(-1, 1, 1, 1) == 0, -1.0, 1.0)
    best = (images + EPS * away * model.weight.detach().sign()).clamp(0, 1)
    torch.testing.assert_close(attack(model, images, goal), best, atol=1e-6, rtol=0)
    seg, labels = rr.tasks.Segmentation(), torch.zeros(2, 16, 20, dtype=torch.long)
    checks.check_attack(attack, PixelSegmenter(), photos(), seg.untargeted(labels))


def test_it_is_kept_as_text_and_found_again_but_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mine", types.ModuleType("mine"))
    monkeypatch.setattr(sys.modules["mine"], "step", sign_step, raising=False)
    monkeypatch.setattr(sign_step, "__module__", "mine")
    monkeypatch.setattr(sign_step, "__qualname__", "step")
    attack = Called(rr.Linf(EPS), sign_step)
    assert attack.function == "mine:step"
    checks.check_component(attack)
    assert repr(spec.part(repr(attack), "attacks")) == repr(attack)
    model, images, goal, _ = linear()
    assert torch.equal(attack(model, images, goal), Called(rr.Linf(EPS), "mine:step")(model, images, goal))
    with pytest.raises(ValueError, match="antigravity:fly.*a module that is imported: import antigravity first"):
        Called(rr.Linf(EPS), "antigravity:fly")(model, images, goal)
    assert "antigravity" not in sys.modules


def test_a_local_function_works_but_is_not_saved() -> None:
    model, images, goal, _ = linear()
    attack = Called(rr.Linf(EPS), lambda model, images, target: images + 1)
    checks.check_attack(attack, model, images, goal)
    again = Called(rr.Linf(EPS), lambda model, images, target: images + 2)
    assert repr(attack) != repr(again)  # another function is another attack
    assert " at 0x" not in repr(attack)
    assert repr(attack.replace(seed=1)).startswith("Called(threat=Linf(eps=4/255), function=<")
    with pytest.raises(TypeError, match="expected components, modules, lists or JSON values"):
        attack.config()


def test_the_function_cannot_break_a_promise() -> None:
    model, images, goal, _ = linear()

    def spoil(model: torch.nn.Module, images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        images.zero_()
        return images + torch.rand(()) * 100

    attack = Called(rr.Linf(EPS), spoil)
    checks.check_attack(attack, model, images, goal)


def test_bad_functions_are_named() -> None:
    model, images, goal, _ = linear()
    with pytest.raises(ValueError, match=r"expected images \[3, 3, 6, 6\], got \[2, 3, 6, 6\]"):
        Called(rr.Linf(EPS), lambda model, images, target: images[:2])(model, images, goal)
    with pytest.raises(ValueError, match=r"got tuple"):
        Called(rr.Linf(EPS), lambda model, images, target: (images, images))(model, images, goal)
    with pytest.raises(TypeError, match=r"function: expected a function of \(model, images, target\), got int"):
        Called(rr.Linf(EPS), 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected package.module:name, got 'step'"):
        Called(rr.Linf(EPS), "step")
