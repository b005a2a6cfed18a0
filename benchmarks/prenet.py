"""Published PReNet weights on pairs of rainy and clean photographs: PSNR and SSIM, on luma as deraining papers do, and on RGB.

python benchmarks/prenet.py RAIN_FOLDER CLEAN_FOLDER WEIGHTS_FOLDER    # goes on where it was stopped
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import harness
import robustrestore as rr

FILES = {  # file, what reads it, what it was trained on, PSNR that its authors state for all 100 pairs of Rain100H
    "prenet6_rain100h.pth": (rr.restorers.PReNet, "Rain100H", 29.46),
    "prenet6_rain100l.pth": (rr.restorers.PReNet, "Rain100L", None),
    "prn6_rain100h.pth": (rr.restorers.PRN, "Rain100H", 28.07),
    "prenet6_r_rain100h.pth": (rr.restorers.PReNetR, "Rain100H", 28.98),
}


def luma(images: Tensor) -> Tensor:
    """Y of ITU-R BT.601 in studio range, [N, 1, H, W] in [16, 235] / 255: that of MATLAB's rgb2ycbcr, in 8 bits."""
    weights = torch.tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1)
    whole = (images.clamp(0, 1) * 255).round() / 255
    return ((whole * weights).sum(1, keepdim=True) + 16).round() / 255


def measured(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, list[float]]:
    """Value and interval of each metric on each kind of values."""
    out = {}
    for kind, convert in (("Y", luma), ("RGB", lambda images: images)):
        for metric in (rr.metrics.psnr(), rr.metrics.ssim()):
            statistics = np.concatenate([metric.measure(convert(image), convert(clean)).numpy() for image, clean in pairs])
            out[f"{metric.name} {kind}"] = [round(v, 4) for v in (metric.value(statistics), *metric.interval(statistics))]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("rain", "clean", "weights"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    dataset = rr.data.PairFolder(options.rain, options.clean)
    pairs = [(rainy[None], clean[None]) for rainy, clean in (dataset[k] for k in range(len(dataset)))]
    file = harness.RESULTS / "prenet.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else {}
    if "as it is" not in rows:
        rows["as it is"] = measured(pairs)
    for name, (variant, trained, stated) in FILES.items():
        if name not in rows:
            network = variant.from_published(options.weights / name)
            with torch.no_grad():
                found = measured([(network(rainy), clean) for rainy, clean in pairs])
            rows[name] = {"class": variant.__name__, "trained on": trained, "stated by its authors": stated, **found}
        harness.write("prenet", {"about": {**harness.machine(), "pairs": len(pairs)}, "rows": rows})
        print(name, rows[name])


if __name__ == "__main__":
    main()
