"""Endpoint against a real HTTP server on this machine: encodings, errors, time-outs, kills, and no paid query lost."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from robustrestore import oracle

QUICK = oracle.Patience(timeout=5, retries=3, wait=0.01)
WEIGHT = torch.arange(6.0).view(2, 3)


def answer(images: Tensor) -> Tensor:
    """Two logits of the mean colour."""
    return images.mean(dim=(2, 3)) @ WEIGHT.T


class Service(ThreadingHTTPServer):
    """What the tests set: statuses to give first, seconds to wait, a shift; `shown` counts images by their bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[int] = []
        self.delay, self.shift, self.requests = 0.0, 0.0, 0
        self.shown: Counter[bytes] = Counter()
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.server.requests += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.headers.append(dict(self.headers))
        time.sleep(self.server.delay)
        if self.server.statuses:
            status = self.server.statuses.pop(0)
            if status == 0:
                self.close_connection = True  # the line goes dead
                return
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/npy")
            self.end_headers()
            self.wfile.write(b"not now")
            return
        images = self.decoded(body)
        self.server.shown.update(image.numpy().tobytes() for image in images)
        found = answer(images) + self.server.shift
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.encoded(found))

    def encoded(self, found: Tensor) -> bytes:
        if self.path == "/npy":
            file = io.BytesIO()
            np.save(file, found.numpy())
            return file.getvalue()
        if self.path == "/png":
            return json.dumps({"outputs": {"logits": found[0].tolist()}}).encode()
        return json.dumps({"predictions": [{"scores": row} for row in found.tolist()]}).encode()

    def decoded(self, body: bytes) -> Tensor:
        if self.path == "/npy":
            return torch.from_numpy(np.load(io.BytesIO(body)))
        if self.path == "/png":
            return opened(body)[None]
        found = json.loads(body)["instances"]
        if isinstance(found[0], dict):
            return torch.stack([opened(base64.b64decode(one["b64"])) for one in found])
        return torch.tensor(found).permute(0, 3, 1, 2).contiguous()


def opened(data: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1).float() / 255


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Service()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def images(count: int) -> Tensor:
    """In eight bits, so that every encoding holds them exactly."""
    own = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 5, 4), generator=own).float() / 255


def npy(service: Service, **more: Any) -> oracle.Endpoint:
    return oracle.Endpoint(f"{service.url}/npy", oracle.NPY(), oracle.npy_answers, **{"batch": 4, "patience": QUICK, **more})


@pytest.mark.parametrize(
    ("path", "encoding", "parse", "requests"),
    [
        ("npy", oracle.NPY(), oracle.npy_answers, 3),
        ("json", oracle.JSONValues(order=(0, 2, 3, 1)), "predictions.*.scores", 3),
        ("pngs", oracle.JSONPngs(key="b64"), "predictions.*.scores", 3),
        ("png", oracle.PNG(), "outputs.logits", 9),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_encoding_gives_the_targets_answers(
    service: Service, path: str, encoding: oracle.Encoding, parse: Any, requests: int
) -> None:
    place = oracle.Endpoint("{host}/{path}", encoding, parse, 4, {"Key": "secret"}, {"host": service.url, "path": path}, QUICK)
    target = oracle.Queried(place)
    assert torch.allclose(target(images(9)), answer(images(9)), atol=1e-5)
    assert service.requests == requests
    assert target.sent == target.answered == 9
    assert service.headers[0]["Key"] == "secret"
    assert "secret" not in repr(place) + place.about + repr(target)


def test_errors_are_tried_again_and_counted(service: Service) -> None:
    service.statuses = [503, 0, 429]
    target = oracle.Queried(npy(service))
    assert torch.allclose(target(images(6)), answer(images(6)), atol=1e-5)
    assert service.requests == 5  # three that failed, two that did not
    assert (target.answered, target.sent) == (6, 3 * 4 + 4 + 2)
    assert set(service.shown.values()) == {1}


def test_a_service_that_stays_down_is_named_and_what_was_answered_is_kept(service: Service, tmp_path: Path) -> None:
    target = oracle.Queried(npy(service), cache=tmp_path / "answers.db")
    target(images(4))
    service.statuses = [503] * 4
    with pytest.raises(oracle.Unanswered, match=r"4 attempts, got HTTP 503.*call again to go on"):
        target(images(8))
    target(images(8))
    assert target.answered == 8
    assert set(service.shown.values()) == {1}


@pytest.mark.parametrize("status", [401, 302])
def test_a_refusal_is_not_tried_again(service: Service, status: int) -> None:
    service.statuses = [status]
    with pytest.raises(ValueError, match=f"HTTP {status} .*not now"):
        oracle.Queried(npy(service))(images(1))
    assert service.requests == 1


def test_the_budget_stops_retries_too(service: Service) -> None:
    service.statuses = [503] * 9
    with pytest.raises(oracle.OverBudget):
        oracle.Queried(npy(service), budget=8)(images(4))
    assert service.requests == 2


def test_a_slow_service_times_out_and_is_asked_again(service: Service) -> None:
    service.delay = 1.0
    place = npy(service, patience=oracle.Patience(timeout=0.1, retries=1, wait=0))
    with pytest.raises(oracle.Unanswered, match=r"2 attempts, got .*timed out"):
        oracle.Queried(place)(images(1))
    assert service.requests == 2


def test_the_rate_is_kept(service: Service) -> None:
    target = oracle.Queried(npy(service, batch=1, patience=oracle.Patience(rate=20)))
    began = time.monotonic()
    target(images(5))
    assert time.monotonic() - began >= 4 / 20


def test_a_service_that_answers_differently_is_noticed(service: Service) -> None:
    target = oracle.Queried(npy(service))
    target(images(4))
    service.shift = 2.0
    with pytest.warns(UserWarning, match="4 answers of 4 changed"):
        assert len(target.recheck(images(4))) == 4


def test_odd_responses_are_shown(service: Service) -> None:
    with pytest.raises(ValueError, match=r"expected JSON with something at 'nothing', got .*predictions"):
        oracle.Queried(oracle.Endpoint(f"{service.url}/json", oracle.JSONValues(order=(0, 2, 3, 1)), "nothing"))(images(1))
    with pytest.raises(ValueError, match="clamp"):
        oracle.Queried(oracle.Endpoint(f"{service.url}/png", oracle.PNG()))(images(1) + 1)
    with pytest.raises(ValueError, match="http"):
        oracle.Endpoint("file:///etc/hosts")
    with pytest.raises(ValueError, match="filled in"):
        oracle.Endpoint("http://{host}/")


CLIENT = """
import sys, torch
from robustrestore import oracle
own = torch.Generator().manual_seed(0)
images = torch.randint(0, 256, (40, 3, 5, 4), generator=own).float() / 255
place = oracle.Endpoint(sys.argv[1] + "/npy", oracle.NPY(), oracle.npy_answers, batch=2)
oracle.Queried(place, cache=sys.argv[2])(images)
"""


def test_a_killed_run_loses_no_paid_query(service: Service, tmp_path: Path) -> None:
    service.delay = 0.03
    cache = tmp_path / "answers.db"
    run = subprocess.Popen([sys.executable, "-c", CLIENT, service.url, str(cache)])
    while service.requests < 6 and run.poll() is None:
        time.sleep(0.005)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    time.sleep(0.1)  # the request in flight is answered into the void
    service.delay = 0.0
    target = oracle.Queried(npy(service, batch=2), cache=cache)
    kept = target.answered
    assert 10 <= kept < 40
    assert torch.allclose(target(images(40)), answer(images(40)), atol=1e-5)
    assert len(service.shown) == target.answered == 40
    assert sum(service.shown.values()) <= 42  # the two that were under way, at most, were asked again
    assert target.sent == sum(service.shown.values())
