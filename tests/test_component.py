"""Settings, repr and copies of parts, and the contract that a class of one's own has to keep."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import PixelSegmenter
from toys_parts import pipeline, purifier

import robustrestore as rr
from robustrestore import diffusion, registry

NAMES = {"PGD": rr.attacks.PGD, "Linf": rr.Linf, "L2": rr.L2, "Blur": rr.purifiers.Blur, "DDIM": diffusion.DDIM}


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))


def test_settings_are_the_constructor_arguments() -> None:
    threat = rr.L2(0.5)
    found = rr.attacks.PGD(threat, steps=7).settings()
    assert found["threat"] is threat
    assert found["steps"] == 7
    assert rr.Linf(0.1).settings() == {"eps": 0.1}
    stages = pipeline().settings()["stages"]
    assert type(stages) is list
    assert [type(stage).__name__ for stage in stages] == ["Diffusion", "Jpeg", "Network"]


def test_repr_shows_numbers_always_and_switches_where_they_differ() -> None:
    assert repr(rr.Linf(8 / 255)) == "Linf(eps=8/255)"
    assert repr(rr.L2(0.5)) == "L2(eps=0.5)"
    assert repr(rr.purifiers.Jpeg()) == "Jpeg(quality=50)"
    assert repr(rr.attacks.PGD(rr.L2(1.0), steps=7)) == "PGD(threat=L2(eps=1), steps=7, restarts=1, samples=1, seed=0)"
    assert repr(rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.Blur(2.0)])) == (
        "DefendedPipeline(model=PixelSegmenter, stages=[Blur(sigma=2)])"
    )


EPS = [0.1, 1 / 3, 4 / 255, 0.123456789, 1e-9, 12345678.9, 2.0]


@pytest.mark.parametrize("eps", EPS)
def test_repr_is_python_for_the_same_part(eps: float) -> None:
    part = rr.attacks.PGD(rr.L2(eps), steps=3)
    assert eval(repr(part), dict(NAMES)).config() == part.config()


def test_other_settings_have_another_repr() -> None:
    # Journals and folders of purified images tell settings apart by it.
    assert repr(rr.purifiers.Blur(0.12345671)) != repr(rr.purifiers.Blur(0.12345672))


def test_repr_of_numbers_without_end() -> None:
    assert repr(rr.tasks.Restoration(floor=float("-inf"))) == "Restoration(floor=-inf)"


def test_replace_changes_a_copy_and_shares_networks() -> None:
    original = purifier()
    copy = original.replace(steps=5)
    assert (copy.steps, original.steps) == (5, 2)
    assert copy.denoiser is original.denoiser
    assert {**copy.settings(), "steps": 2} == original.settings()
    assert rr.Linf(0.1).replace(eps=0.2).eps == 0.2


def test_replace_refuses_unknown_and_wrong_settings() -> None:
    with pytest.raises(TypeError, match=r"Jpeg: expected settings among \['.*quality.*'\], got \['qualty', 'x'\]"):
        rr.purifiers.Jpeg().replace(x=1, qualty=30)
    with pytest.raises(ValueError, match="eps: expected a finite size"):
        rr.Linf(0.1).replace(eps=-1)


def test_config_is_plain_data() -> None:
    config = rr.attacks.PGD(rr.Linf(0.1), steps=7).config()
    assert (config["kind"], config["name"]) == ("attacks", "pgd")
    assert config["settings"]["threat"] == {"kind": "threats", "name": "linf", "settings": {"eps": 0.1}}
    assert json.loads(json.dumps(config)) == config
    assert pipeline().config()["settings"]["model"]["settings"]["model"] == {"module": "model.model"}


def test_replace_shares_networks_and_keeps_the_mode() -> None:
    denoiser = rr.diffusion.SigmaUNet(width=4).eval()
    torch.nn.init.normal_(denoiser.body.head.weight)
    purifier = rr.purifiers.Diffusion(denoiser, sigma=0.1).eval()
    copy = purifier.replace(sigma=0.2)
    assert copy.denoiser is denoiser
    assert not copy.training
    derain = rr.restorers.UNet(width=4).eval()
    assert derain.replace(channels=3).body is derain.body
    with pytest.raises(ValueError, match="make a new part instead"):
        derain.replace(width=8)


def test_a_name_needs_a_kind() -> None:
    with pytest.raises(TypeError, match="derive it from Purifier"):

        class Lost(rr.Stage, name="lost"):
            pass


def test_what_a_base_owns_cannot_be_overridden() -> None:
    with pytest.raises(TypeError, match=r"Mine\.forward: expected it to stay that of Stage: write `run` instead"):

        class Mine(rr.purifiers.Blur):
            def forward(self, images: Tensor) -> Tensor:
                return images

    with pytest.raises(TypeError, match=r"Own\.__call__: expected it to stay that of Attack"):

        class Own(rr.Attack, name="component_own"):
            def __call__(self, *given: Any) -> Any:
                return given[1]


def test_a_named_part_has_to_be_whole() -> None:
    with pytest.raises(TypeError, match=r"Half: expected a named part to be whole, missing: draw, size, steepest"):

        class Half(rr.Threat, name="component_half"):
            def limit(self, delta: Tensor) -> Tensor:
                return delta

    assert "component_half" not in rr.Threat.names()


class Table(rr.Purifier):
    """A part with weights of its own: drawn, counted, and made from settings."""

    def __init__(self, level: float = 0.1) -> None:
        super().__init__()
        self.level = level
        self.weight = nn.Parameter(torch.rand(3))
        self.register_buffer("count", torch.rand(2))
        self.register_buffer("made", torch.full((2,), level), persistent=False)

    def run(self, images: Tensor) -> Tensor:
        return images


def test_replace_shares_what_a_part_holds_itself_and_draws_nothing() -> None:
    original, state = Table(), torch.random.get_rng_state()
    copy = original.replace(level=0.5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert copy.weight is original.weight
    assert copy.count is original.count
    assert torch.equal(copy.made, torch.full((2,), 0.5))
