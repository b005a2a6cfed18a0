"""How good the bundled street segmenter is without attack: mean IoU and IoU per class on all CamVid validation frames.

python benchmarks/segmenter.py --camvid PATH [--device cuda]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

import harness
import robustrestore as rr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    dataset = rr.data.CamVid(options.camvid, "val", rr.assets.STREET_SIZE)
    segmenter = rr.assets.street_segmenter().to(options.device)
    metric = rr.metrics.mean_iou()
    rows = []
    with torch.no_grad():
        for k in track(range(len(dataset)), "frames"):
            image, label = dataset[k]
            rows.append(metric.measure(segmenter(image[None].to(options.device)), label[None].to(options.device)).cpu().numpy())
    statistics = np.concatenate(rows)
    inside, union = np.split(statistics.sum(axis=0), 2)
    classes = {name: round(float(i / u), 3) for name, i, u in zip(dataset.CLASSES, inside, union, strict=True)}
    low, high = metric.interval(statistics)
    content = {
        "about": {**harness.machine(options.device), "frames": len(dataset), "size": list(rr.assets.STREET_SIZE)},
        "mean_iou": round(metric.value(statistics), 4),
        "interval": [round(low, 4), round(high, 4)],
        "classes": classes,
    }
    harness.write("segmenter", content)
    print(content)


if __name__ == "__main__":
    main()
