"""The benchmark of the DUCD recipe at toy size: the target in a process of its own, the ways beside each other, the counts."""

import argparse
import importlib
import json
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustrestore as rr
from robustrestore import certify, oracle

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    names = ("ducd", "ducd_asking", "ducd_attacks", "ducd_members", "ducd_parts", "ducd_study", "ducd_tables")
    return {name: importlib.import_module(name) for name in names}


def strokes(folder: Path, name: str, count: int) -> None:
    """Digits of a kind: class k is a bright row 2 k + 4, and some noise."""
    rng = np.random.default_rng(len(name))
    labels = np.arange(count) % 10
    images = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 6] += 180
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", images=images, labels=labels)


@pytest.fixture
def options(scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    strokes(tmp_path / "mnist", "train_first20000", 300)
    strokes(tmp_path / "mnist", "test_first5000", 60)
    parts = scripts["ducd_parts"]
    for name, where in (("POOL", (100, 260)), ("SELECT", (260, 290)), ("TEST", (0, 20)), ("HELD", (20, 60))):
        monkeypatch.setattr(parts, name, slice(*where))
    monkeypatch.setattr(scripts["ducd"], "CANDIDATES", [certify.Gaussian(0.05), certify.Gaussian(0.25), certify.SSN(0.5)])
    settings = {"images": 20, "draws": 60, "queries": 160, "steps": 60, "epochs": 3, "seeds": 1, "thorough": 1}
    return argparse.Namespace(data=tmp_path, work=tmp_path / "work", port=0, **settings)


def test_from_the_server_to_the_tables(
    scripts: dict[str, ModuleType], options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ducd, tables = scripts["ducd"], scripts["ducd_tables"]
    options.work.mkdir()
    done = {}
    with scripts["ducd_asking"].served("digits", options, 0) as url:  # one process for all parts: starting one takes long
        monkeypatch.setattr(ducd.asking, "served", lambda *more: nullcontext(url))
        for name in ("select", "main", "norms"):
            done[name] = ducd.PARTS[name](options)
            (options.work / f"{name}.json").write_text(json.dumps(done[name]))
        images, asking = scripts["ducd_parts"].digits(options.data / "mnist", slice(0, 4))[0], scripts["ducd_asking"].asking
        scores, labels = asking(url, None)(images), asking(f"{url}/labels", None, oracle.Labels())(images)
        shares = asking(f"{url}/probabilities", None, oracle.Probabilities())(images)
    assert torch.equal(labels, scores.argmax(1))
    assert torch.allclose(shares, scores.softmax(1), atol=1e-6)
    with pytest.raises(oracle.Unanswered):  # the process has gone with the block
        oracle.Queried(oracle.Endpoint(url, oracle.NPY(), patience=oracle.Patience(1, 0)))(images)
    seed = done["main"]["seeds"]["0"]
    assert seed["queries"] == {"answered": 160, "sent": 160}
    assert seed["queries by smoothing the target"] == 20 * 70
    rows = {name: row["figures"]["ACR"]["value"] for name, row in seed["rows"].items()}
    assert set(rows) == set(tables.WAYS)
    assert rows["surrogate"] > 0.1
    assert seed["rows"]["surrogate"]["clean"] > 0.6
    assert seed["agreement"]["surrogate"]["clean"] > 0.5
    about = {"images": 20, "draws": 60, "alpha": 0.001}
    monkeypatch.setattr(tables, "load", lambda name: {"about": about, **done})
    for name in ("ducd main", "ducd agreement", "ducd selection", "ducd l1", "ducd l2", "ducd linf"):
        lines = tables.TABLES[name]().splitlines()
        assert len({line.count("|") for line in lines}) == 1
    assert "the target smoothed by queries" in tables.TABLES["ducd main"]()


class Sum(nn.Module):
    """Two scores: the sum of the values above one half, and its opposite."""

    def forward(self, images: Tensor) -> Tensor:
        score = (images - 0.5).flatten(1).sum(1)
        return torch.stack([score, -score], dim=1)


def test_agreement_by_hand(scripts: dict[str, ModuleType]) -> None:
    images = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = scripts["ducd_asking"].agreement(oracle.Queried(Sum()), lambda x: -Sum()(x), certify.Gaussian(1e-6), images)
    assert list(found.values()) == [0.0, 0.0, 0.0, 1.0]
    found = scripts["ducd_asking"].agreement(oracle.Queried(Sum()), Sum(), certify.Gaussian(50.0), images)
    assert found["clean"] == 1.0
    assert 0.2 < found["noisy, with the target's clean answer"] < 0.8


def test_training_a_denoiser_moves_the_denoiser_alone(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    parts, asking = scripts["ducd_parts"], scripts["ducd_asking"]
    behind = parts.surrogate()
    before = {name: tensor.clone() for name, tensor in behind.state_dict().items()}
    front = parts.Denoiser(behind)
    first = front.body[0].weight.detach().clone()
    images = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    asked = oracle.Queried(lambda x: x.flatten(1)[:, :10])
    asking.distilled(asked, images, tmp_path / "front.safetensors", 0, certify.Gaussian(0.1), front, steps=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in behind.state_dict().items())
    assert not torch.equal(front.body[0].weight, first)
    again = asking.distilled(asked, images, tmp_path / "front.safetensors", 0, network=parts.Denoiser(behind))
    assert torch.equal(again(images), front(images))


def test_what_is_attacked_is_the_mean_probability_under_noise(scripts: dict[str, ModuleType]) -> None:
    image = torch.full((1, 1, 1, 1), 0.7)
    averaged = scripts["ducd_attacks"].Averaged(Sum(), certify.Gaussian(0.4), 4000)
    with rr.seeded(0):
        found = averaged(image).softmax(1)[0, 0]
    draws = 0.2 + 0.4 * torch.randn(100_000, generator=torch.Generator().manual_seed(1))
    assert float(found) == pytest.approx(float(torch.sigmoid(2 * draws).mean()), abs=0.015)


def test_broken_certificates_are_counted(scripts: dict[str, ModuleType]) -> None:
    images = torch.tensor([0.9, 0.9, 0.1]).view(3, 1, 1, 1)
    rows = [
        {"prediction": 0, "target": 0, "radius": {"l2": 0.3}},  # kept
        {"prediction": 1, "target": 1, "radius": {"l2": 0.3}},  # a promise that does not hold
        {"prediction": 0, "target": 0, "radius": {"l2": 0.1}},  # nothing was promised there
    ]
    smoothed = certify.SmoothedClassifier(Sum(), certify.Gaussian(0.05))
    found = scripts["ducd_attacks"]._deployed(smoothed, images, torch.tensor([0, 1, 0]), rows, 0.2)
    assert (found["certified there"], found["broken"]) == (2, 1)
    assert found["accuracy"] == pytest.approx(1 / 3)


def test_queries_members_and_the_rest_share_no_image(scripts: dict[str, ModuleType]) -> None:
    parts = scripts["ducd_parts"]
    for splits in (
        (parts.OWNED, parts.POOL, parts.SELECT),
        (parts.TEST, parts.HELD),
        (parts.MEMBERS, parts.OTHERS, parts.ASKED),
    ):
        places = [set(range(split.start, split.stop)) for split in splits]
        assert sum(map(len, places)) == len(set.union(*places))
