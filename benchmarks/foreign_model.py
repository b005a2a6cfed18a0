"""A segmenter that we neither made nor trained, in our harness: ESPNet with its published CamVid weights.

python benchmarks/foreign_model.py --camvid PATH --weights espnet_p2q8_camvid.pth [--frames 6] [--device cuda]

Prints the mean IoU on validation frames at 480 x 360, clean and under PGD-5 at 8/255, and writes results/foreign_model.json.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import espnet
import robustrestore as rr
from robustrestore.files import write_text

RESULTS = Path(__file__).parent / "results"


class Labels(nn.Module):
    """The first 11 outputs: the network has a twelfth for void, which no label asks for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)[:, : len(rr.data.CamVid.CLASSES)]


def wrapped(weights: Path) -> rr.Adapted:
    """BGR, 0..255 less the mean, over std, over 255: in [0, 1] units (x - mean / 255) / std."""
    network = Labels(espnet.load(weights))
    return rr.Adapted(network, mean=[m / 255 for m in espnet.MEAN_BGR], std=espnet.STD_BGR, channels=[2, 1, 0], multiple=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "foreign_model.json")
    options = parser.parse_args()
    frames = rr.data.CamVid(options.camvid, "val")
    picks = [k * len(frames) // options.frames for k in range(options.frames)]
    batches = [tuple(t[None].to(options.device) for t in frames[k]) for k in picks]
    pipeline = rr.DefendedPipeline(wrapped(options.weights).to(options.device))
    report = rr.evaluate(pipeline, batches, rr.tasks.Segmentation(), [rr.attacks.PGD(rr.Linf(8 / 255), steps=5)])
    report.about["frames"] = picks
    write_text(options.out, report.json())
    print(report)


if __name__ == "__main__":
    main()
