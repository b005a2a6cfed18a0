"""Saving parts and loading them, and the many ways a saved folder can be wrong."""

import hashlib
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as unpacked
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toys import Gain, Moody, PixelSegmenter, photos
from toys_ground import Trap, inside
from toys_parts import FOREIGN, Head, pipeline, randomised

import robustrestore as rr
from robustrestore import diffusion, registry


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))


def same(found: nn.Module, wanted: nn.Module) -> None:
    mine, theirs = found.state_dict(), wanted.state_dict()
    assert list(mine) == list(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(mine[name], tensor), name


def test_a_pipeline_comes_back(tmp_path: Path) -> None:
    original = pipeline()
    original.save_pretrained(tmp_path / "deep" / "folder")
    again = rr.DefendedPipeline.from_pretrained(tmp_path / "deep" / "folder", FOREIGN)
    assert again.config() == original.config()
    assert again.model.model is FOREIGN["model.model"]
    assert isinstance(again.stages[0].sampler, diffusion.DDPM)
    same(again, original)
    assert torch.equal(again(photos(1)), original(photos(1)))
    assert inside(tmp_path / "deep" / "folder") == ["config.json", "model.safetensors"]


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path / "a")
    rr.DefendedPipeline.from_pretrained(tmp_path / "a", FOREIGN).save_pretrained(tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_part_without_weights_is_a_config(tmp_path: Path) -> None:
    rr.attacks.PGD(rr.Linf(8 / 255), steps=7).save_pretrained(tmp_path)
    assert inside(tmp_path) == ["config.json"]
    assert repr(rr.Attack.from_pretrained(tmp_path)) == "PGD(threat=Linf(eps=8/255), steps=7, restarts=1, samples=1, seed=0)"


def test_a_part_of_another_kind_is_refused(tmp_path: Path) -> None:
    rr.purifiers.Jpeg(30).save_pretrained(tmp_path)
    assert rr.Purifier.from_pretrained(tmp_path).quality == 30
    with pytest.raises(ValueError, match="expected a saved Blur, got Jpeg"):
        rr.purifiers.Blur.from_pretrained(tmp_path)


def test_two_stages_may_share_a_network_of_ours(tmp_path: Path) -> None:
    shared = randomised(diffusion.SigmaUNet(width=4))
    stages = [rr.purifiers.Diffusion(shared, steps=n) for n in (1, 2)]
    original = rr.DefendedPipeline(PixelSegmenter(), stages)
    original.save_pretrained(tmp_path)
    same(rr.DefendedPipeline.from_pretrained(tmp_path, {"model": PixelSegmenter()}), original)


# Modules that are not ours


def test_foreign_weights_are_not_written(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert names
    assert {name.rpartition(".body.")[0] for name in names} == {"stages.0.denoiser"}


def test_a_foreign_network_used_twice_is_not_written_either(tmp_path: Path) -> None:
    network = Gain(0.9)
    original = rr.DefendedPipeline(PixelSegmenter(), [rr.restorers.Network(network), rr.restorers.Network(network)])
    original.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors") == {}
    other = Gain(0.5)
    again = rr.DefendedPipeline.from_pretrained(tmp_path, {"model": PixelSegmenter(), "stages.0.network": other})
    assert again.stages[0].network is other
    assert again.stages[1].network is other
    assert other.gain == 0.5  # what is handed back keeps its own weights


def test_a_forgotten_module_is_named(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path)
    with pytest.raises(KeyError, match=r"missing \['model\.model'\]: pass from_pretrained\(folder, \{'model\.model'"):
        rr.DefendedPipeline.from_pretrained(tmp_path, {"stages.2.network": Gain()})
    with pytest.raises(KeyError, match=r"\['model\.model', 'stages\.2\.network'\]"):
        rr.DefendedPipeline.from_pretrained(tmp_path)


def test_a_foreign_module_is_handed_back_as_it_is(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path)
    trained_on = Head(seed=8)
    before = trained_on.weight.detach().clone()
    rr.DefendedPipeline.from_pretrained(tmp_path, {**FOREIGN, "model.model": trained_on})
    assert torch.equal(trained_on.weight, before)


def test_a_module_that_the_part_does_not_hold_cannot_be_saved(tmp_path: Path) -> None:
    class Guided(rr.Attack, name="component_guided"):
        def __init__(self, threat: rr.Threat, network: nn.Module) -> None:
            self.threat, self.network = threat, network

        def run(self, *given: Any) -> Any:
            return given[1]

    with pytest.raises(ValueError, match=r"expected a sub-module of the saved part, got a Gain that it does not hold"):
        Guided(rr.Linf(0.1), Gain()).save_pretrained(tmp_path)
    assert inside(tmp_path) == []


def test_what_has_no_name_or_no_json_cannot_be_saved(tmp_path: Path) -> None:
    view = rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.Blur()]).straight_through()
    with pytest.raises(ValueError, match="StraightThrough: expected a registered part, got one without name="):
        view.save_pretrained(tmp_path)

    class Odd(rr.Purifier, name="component_odd"):
        def __init__(self, table: object) -> None:
            super().__init__()
            self.table = table

        def run(self, images: Tensor) -> Tensor:
            return images

    with pytest.raises(TypeError, match="expected components, modules, lists or JSON values, got ndarray"):
        Odd(torch.zeros(2).numpy()).save_pretrained(tmp_path)
    assert inside(tmp_path) == []


# Folders that are wrong


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    rr.DefendedPipeline(Head(), [randomised(rr.restorers.UNet(width=4))]).save_pretrained(tmp_path)
    return tmp_path


def load(folder: Path) -> rr.DefendedPipeline:
    return rr.DefendedPipeline.from_pretrained(folder, {"model": Head()})


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads((folder / "config.json").read_text())
    change(tree)
    (folder / "config.json").write_text(json.dumps(tree))


def sign(folder: Path) -> None:
    """Give the weights as they are the right checksum: what somebody who makes a bad folder on purpose would do."""
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    edit(folder, lambda tree: tree.update(sha256=digest))


def test_the_folder_loads_as_long_as_nothing_is_changed(saved: Path) -> None:
    assert load(saved).stages[0].width == 4
    sign(saved)
    assert load(saved).stages[0].width == 4


@pytest.mark.parametrize("place", [0, 40, -1])
def test_one_changed_byte_is_refused(saved: Path, place: int) -> None:
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[place] ^= 1
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: expected SHA-256 [0-9a-f]{64}, got [0-9a-f]{64}: .*changed"):
        load(saved)


def test_a_missing_checksum_is_refused(saved: Path) -> None:
    edit(saved, lambda tree: tree.pop("sha256"))
    with pytest.raises(ValueError, match="expected SHA-256 None"):
        load(saved)


@pytest.mark.parametrize("dump", [lambda thing, file: torch.save(thing, file), lambda t, f: f.write_bytes(pickle.dumps(t))])
def test_a_pickle_in_place_of_safetensors_is_refused_and_not_run(saved: Path, dump: Callable[..., object]) -> None:
    dump({"weight": Trap(saved / "trapped")}, saved / "model.safetensors")
    sign(saved)
    with pytest.raises(ValueError, match="expected a safetensors file"):
        load(saved)
    assert not (saved / "trapped").exists()


def test_a_pickle_beside_the_config_is_not_read(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    torch.save(Trap(saved / "trapped"), saved / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="expected model.safetensors beside config.json; pickled checkpoints"):
        load(saved)
    assert not (saved / "trapped").exists()


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder with config.json, written by save_pretrained"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", '{"kind": "purifiers", ', "\x80"])
def test_a_config_that_is_no_json(saved: Path, text: str) -> None:
    (saved / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config\.json: expected JSON written by save_pretrained"):
        load(saved)


@pytest.mark.parametrize("text", ["{}", "[]", "3", '"kind"', "null", '["kind", "name", "settings"]', "[[1]]"])
def test_a_config_of_something_else(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: expected"):
        load(saved)


def inner(tree: dict[str, Any]) -> dict[str, Any]:
    return tree["settings"]["stages"][0]


@pytest.mark.parametrize("level", [lambda tree: tree, inner], ids=["top", "nested"])
def test_a_config_with_unknown_or_missing_keys(saved: Path, level: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    edit(saved, lambda tree: level(tree).update(code="print()"))
    with pytest.raises(ValueError, match=r"config\.json: expected the keys kind, name and settings, got \['code', 'kind'"):
        load(saved)
    edit(saved, lambda tree: [level(tree).pop("code"), level(tree).pop("name")])
    with pytest.raises(ValueError, match=r"expected the keys kind, name and settings, got \['kind'"):
        load(saved)


@pytest.mark.parametrize("settings", [[], None, "width"])
def test_settings_that_are_no_settings(saved: Path, settings: object) -> None:
    edit(saved, lambda tree: inner(tree).update(settings=settings))
    with pytest.raises(ValueError, match=r"config\.json: expected"):
        load(saved)


def test_a_config_with_an_unknown_name(saved: Path) -> None:
    edit(saved, lambda tree: inner(tree).update(name="unett"))
    with pytest.raises(LookupError, match="restorers: no part is called 'unett'; known: fourier_unet, nafnet, network"):
        load(saved)


@pytest.mark.parametrize(("kind", "name"), [("restorers", "this:d"), ("builtins", "eval"), ("os", "system"), ("", "")])
def test_only_registered_classes_are_made(saved: Path, kind: str, name: str) -> None:
    edit(saved, lambda tree: inner(tree).update(kind=kind, name=name))
    with pytest.raises(LookupError, match="no part is called"):
        load(saved)
    assert "this" not in sys.modules


def test_a_config_with_settings_that_do_not_fit(saved: Path) -> None:
    edit(saved, lambda tree: inner(tree)["settings"].update(depth=3))
    with pytest.raises(ValueError, match=r"settings of restorers 'unet' do not fit: .*'depth'"):
        load(saved)


def test_a_stage_that_is_none_is_refused(saved: Path) -> None:
    threat = {"kind": "threats", "name": "linf", "settings": {"eps": 0.1}}
    edit(saved, lambda tree: tree["settings"].update(stages=[threat]))
    with pytest.raises(ValueError, match="settings of pipelines 'defended' do not fit: stages: expected purifiers"):
        load(saved)


def test_weights_of_another_size_are_named(saved: Path) -> None:
    edit(saved, lambda tree: inner(tree)["settings"].update(width=8))
    with pytest.raises(ValueError, match=r"weights for DefendedPipeline; of another shape: stages\.0\.body\."):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("stages.0.body.head.bias"), r"; missing: stages\.0\.body\.head\.bias$"),
        (lambda state: state.update({"model.weight": torch.zeros(2, 3)}), r"; unknown: model\.weight$"),
        (lambda state: state.update(extra=torch.zeros(1)), "; unknown: extra$"),
    ],
    ids=["missing", "foreign", "extra"],
)
def test_other_weights_are_named(saved: Path, change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    state = unpacked((saved / "model.safetensors").read_bytes())
    change(state)
    save_file(state, saved / "model.safetensors")
    sign(saved)
    with pytest.raises(ValueError, match=message):
        load(saved)


def test_loading_draws_nothing_and_gives_evaluation_mode_but_leaves_foreign_modules_as_they_are(tmp_path: Path) -> None:
    model = Moody().train()
    model.drop.eval()
    rr.DefendedPipeline(model, [randomised(rr.restorers.UNet(width=4))]).save_pretrained(tmp_path)
    state = torch.random.get_rng_state()
    again = rr.DefendedPipeline.from_pretrained(tmp_path, {"model": model})
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(part.training for part in (again, again.stages, *again.stages.modules()))
    assert (model.training, model.norm.training, model.drop.training) == (True, True, False)
