"""The target of ducd.py behind HTTP, in a process of its own: no weight of it leaves, and nothing else shares its memory.

python benchmarks/ducd_server.py digits --data FOLDER --weights FILE --seed 0 --port 8731

Trains the target where FILE does not exist, says "ready" and the number of its weights on standard output, and answers POST
requests until standard input is closed, so that it ends with whoever started it. Paths: / for outputs as they are,
/probabilities and /labels.
"""

import argparse
import io
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import ducd_parts
import robustrestore as rr


def model(kind: str, data: Path, weights: Path, seed: int) -> nn.Module:
    """The target; of a bundled network nothing is trained."""
    if kind == "street":
        return rr.assets.street_segmenter()
    if kind == "derain":
        return rr.restorers.UNet.derain().eval()
    with rr.seeded(seed):
        network = ducd_parts.target() if kind == "digits" else ducd_parts.small_cnn(24)
    if kind == "digits":
        own = ducd_parts.digits(data / "mnist", ducd_parts.OWNED)
        return ducd_parts.kept(weights, network, lambda: ducd_parts.taught(network, own, 12, seed, shift=2))
    own = ducd_parts.pictures(data / "cifar10", ducd_parts.MEMBERS)
    return ducd_parts.kept(weights, network, lambda: ducd_parts.taught(network, own, ducd_parts.BY_HEART, seed))


TOLD: dict[str, Callable[[Tensor], Tensor]] = {
    "/": lambda found: found,
    "/probabilities": lambda found: found.softmax(1),
    "/labels": lambda found: found.argmax(1),
}


class Handler(BaseHTTPRequestHandler):
    network: nn.Module

    def log_message(self, *args: object) -> None:
        """Nothing: the answers are all that it says."""

    def do_POST(self) -> None:
        """A NumPy file of images [n, C, H, W] in, one of answers out."""
        images = np.load(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"]))), allow_pickle=False)
        with torch.no_grad():
            found = TOLD[self.path](self.network(torch.from_numpy(images)))
        file = io.BytesIO()
        np.save(file, found.numpy(), allow_pickle=False)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-npy")
        self.send_header("Content-Length", str(file.tell()))
        self.end_headers()
        self.wfile.write(file.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("digits", "overfitted", "street", "derain"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=8731)
    options = parser.parse_args()
    torch.set_num_threads(1)
    Handler.network = model(options.kind, options.data, options.weights, options.seed)
    server = HTTPServer(("127.0.0.1", options.port), Handler)
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
    weights = sum(weight.numel() for weight in Handler.network.parameters())
    print(f"ready {server.server_address[1]} {weights}", flush=True)
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
