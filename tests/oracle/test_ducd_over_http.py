"""DUCD from the first query to the certificate, against a server in a process of its own that fails, stalls and changes."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import toys_service
from torch import Tensor, nn

import robustrestore as rr
from robustrestore import certify, oracle

TASK, NOISE = rr.tasks.Classification(), certify.Gaussian(0.2)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[toys_service.Service]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with toys_service.running(tmp_path) as made:
        yield made


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def linear() -> nn.Module:
    layer = nn.Linear(16, 2)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)


def endpoint(service: toys_service.Service) -> oracle.Endpoint:
    quick = oracle.Patience(timeout=0.5, retries=3, wait=0.01)
    return oracle.Endpoint(service.url, oracle.NPY(), oracle.npy_answers, batch=32, patience=quick)


def test_from_the_first_query_to_the_certificate(service: toys_service.Service, tmp_path: Path) -> None:
    queries, selection, test = images(160), images(40, 1), images(30, 2)
    service.set(statuses=[500, 500], delays=[0, 0, 1.0])  # two server errors, then an answer that comes too late
    asked = oracle.Queried(endpoint(service), oracle.Logits(), tmp_path / "answers.db", budget=500)
    asked(queries)
    assert (asked.answered, asked.sent) == (160, 160 + 3 * 32)
    surrogate = linear()
    recipe = rr.recipes.Distill(asked, surrogate, TASK, NOISE)
    plan = rr.Plan(steps=80, batch=80, optimiser=rr.AdamW(lr=0.1, weight_decay=0.0), average=None)
    rr.fit(recipe, rr.data.Unlabelled(torch.utils.data.TensorDataset(queries)), plan, quiet=True)
    told = oracle.Queried(endpoint(service), oracle.Logits())
    assert float((surrogate(test).argmax(1) == told(test).argmax(1)).float().mean()) > 0.9
    bill = len(service.shown())
    truth = [torch.from_numpy(toys_service.logits(x.numpy()).argmax(1)) for x in (selection, test)]
    noises = [certify.Gaussian(0.02), NOISE]
    choice = certify.select_noise(
        [certify.SmoothedClassifier(surrogate, n) for n in noises], [(selection, truth[0])], draws=(20, 300)
    )
    assert choice.noise.config() == NOISE.config()
    report = choice.measure([(test, truth[1])], draws=(20, 300))
    weight, bias = (surrogate[1].weight[0] - surrogate[1].weight[1]), (surrogate[1].bias[0] - surrogate[1].bias[1])
    far = ((test.flatten(1) @ weight + bias).abs() / weight.norm()).detach()  # of the surrogate: smoothing a line moves nothing
    radii = torch.tensor([row["radius"]["l2"] for row in report.rows])
    assert bool((radii <= far).all())
    assert report.acr()["value"] > 0.1
    assert asked.sent == 256
    assert len(service.shown()) == bill  # selecting, certifying and answering cost no query


def test_a_changed_answer_is_named_in_the_ledger(service: toys_service.Service, tmp_path: Path) -> None:
    asked = oracle.Queried(endpoint(service), cache=tmp_path / "answers.db")
    before = asked(images(5))
    assert asked.recheck(images(5)) == []
    service.set(shift=0.25)
    with pytest.warns(UserWarning, match=r"5 answers of 5 changed, by up to 0\.25"):
        found = asked.recheck(images(5))
    assert torch.equal(asked(images(5)), before)
    later = oracle.Queried(endpoint(service), cache=tmp_path / "answers.db")
    keys = [rr.files.digest(image) for image in images(5)]
    assert [one.image for one in later.changes] == [one.image for one in found] == keys


def distil(url: str, folder: Path) -> nn.Module:
    """A training whose answers, checkpoints and end are in the folder."""
    place = oracle.Endpoint(url, oracle.NPY(), oracle.npy_answers, batch=4)
    asked = oracle.Queried(place, oracle.Logits(), folder / "answers.db", budget=400)
    data = rr.data.Unlabelled(torch.utils.data.TensorDataset(images(240)))
    surrogate = linear()
    plan = rr.Plan(steps=60, batch=8, optimiser=rr.AdamW(lr=0.1), average=None, every=5)
    rr.fit(rr.recipes.Distill(asked, surrogate, TASK, NOISE), data, plan, folder=folder / "fit", quiet=True)
    return surrogate


RUN = """
import pathlib, sys
sys.path[:0] = sys.argv[3:]
from test_ducd_over_http import distil
distil(sys.argv[1], pathlib.Path(sys.argv[2]))
"""


def test_a_killed_distillation_loses_no_paid_query_and_ends_as_if_it_had_not_been(
    service: toys_service.Service, tmp_path: Path
) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    command = [sys.executable, "-c", RUN, service.url, str(tmp_path), *paths]
    service.set(delays=[0.05] * 200)
    run = subprocess.Popen(command)
    while len(service.shown()) < 100 and run.poll() is None:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    service.set(delays=[])
    time.sleep(0.1)
    place = oracle.Endpoint(service.url, oracle.NPY(), oracle.npy_answers, batch=4)
    kept = oracle.Queried(place, cache=tmp_path / "answers.db").answered
    assert 96 <= kept < 240
    found = distil(service.url, tmp_path).state_dict()
    shown = Counter(service.shown())
    assert len(shown) == 240
    assert sum(shown.values()) <= 244  # the request in flight, at most, was paid for twice
    whole = distil(service.url, tmp_path / "whole").state_dict()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert float(whole["1.weight"].abs().max()) > 0.1
