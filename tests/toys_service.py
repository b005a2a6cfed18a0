"""A line as a target behind HTTP in a process of its own; NumPy alone, so that it starts fast.

POST / answers a NumPy file of images with one of logits; POST /set takes JSON: `statuses` and `delays` of the coming answers,
`shift` of all. Every image that was answered is a line of the file. Says its port, and ends when standard input is closed.
"""

import hashlib
import io
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

WEIGHT = np.random.default_rng(1).standard_normal(16).astype(np.float32)
STATE: dict[str, Any] = {"statuses": [], "delays": [], "shift": 0.0}


def logits(images: np.ndarray) -> np.ndarray:
    """(s, -s), s = <w, x - 1/2>."""
    score = (images.reshape(len(images), -1) - 0.5) @ WEIGHT
    return np.stack([score, -score], axis=1)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/set":
            STATE.update(json.loads(body))
            return self.said(200, b"")
        time.sleep(STATE["delays"].pop(0) if STATE["delays"] else 0)
        if STATE["statuses"]:
            return self.said(STATE["statuses"].pop(0), b"broken")
        images, file = np.load(io.BytesIO(body)), io.BytesIO()
        with Path(sys.argv[1]).open("a", encoding="ascii") as shown:
            shown.writelines(f"{hashlib.sha256(image.tobytes()).hexdigest()}\n" for image in images)
        np.save(file, logits(images) + np.float32(STATE["shift"]) * np.array([1, -1], np.float32))
        return self.said(200, file.getvalue())

    def said(self, status: int, body: bytes) -> None:
        try:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            pass  # whoever asked has gone


class Service:
    """What the tests see of it: a URL, the images it answered, and what it is to do next."""

    def __init__(self, port: str, notes: Path) -> None:
        self.url, self.notes = f"http://127.0.0.1:{port}", notes

    def set(self, **state: Any) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/set", json.dumps(state).encode(), method="POST")).close()

    def shown(self) -> list[str]:
        return self.notes.read_text().split() if self.notes.is_file() else []


@contextmanager
def running(folder: Path) -> Iterator[Service]:
    """The service in a process of its own, for the block."""
    notes = folder / "shown.txt"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, __file__, str(notes)], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Service(process.stdout.readline().strip(), notes)
        finally:
            process.stdin.close()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
    print(server.server_address[1], flush=True)
    server.serve_forever(poll_interval=0.02)
