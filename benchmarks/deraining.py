"""How good the bundled derain network is: PSNR and SSIM before and after, on our rain and on pairs that others made.

python benchmarks/deraining.py [--pairs RAIN_FOLDER CLEAN_FOLDER]
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import harness
import robustrestore as rr


def measured(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, object]:
    """Both metrics of the rainy and of the restored images."""
    network = rr.restorers.UNet.derain()
    out: dict[str, object] = {"images": len(pairs)}
    with torch.no_grad():
        restored = [(network(rainy), clean) for rainy, clean in pairs]
    for name, images in (("rainy", pairs), ("restored", restored)):
        for metric in (rr.metrics.psnr(), rr.metrics.ssim()):
            statistics = np.concatenate([metric.measure(image, clean).numpy() for image, clean in images])
            low, high = metric.interval(statistics)
            out[f"{name} {metric.name}"] = [round(v, 3) for v in (metric.value(statistics), low, high)]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, nargs=2, metavar=("RAIN", "CLEAN"))
    options = parser.parse_args()
    rain = rr.degradations.Rain()
    photographs = rr.assets.photographs().values()
    results = {"our rain, held-out photographs": measured([(rain(p, [k]), p) for k, p in enumerate(photographs)])}
    if options.pairs:
        dataset = rr.data.PairFolder(*options.pairs)
        results["Rain100H pairs"] = measured([tuple(t[None] for t in dataset[k]) for k in range(len(dataset))])
    harness.write("deraining", {"about": harness.machine(), "results": results})
    print(results)


if __name__ == "__main__":
    main()
