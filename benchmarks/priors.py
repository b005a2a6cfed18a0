"""The two bundled priors as purifiers: is the better denoiser the better defence? CamVid frames, as street.py takes them.

python benchmarks/priors.py --camvid PATH [--frames 16] [--steps 20] [--device cuda] [--scale full]

`Diffusion` of one step at sigma 0.08 with either, paired over the same frames, PGD at 4/255; and the PSNR of what each hands
on, against the clean frame, without attack and under the attack that does not know it. Writes results/priors.json; can be
killed and started again.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

import harness
import robustrestore as rr
from robustrestore.files import write_text

SIGMA, EPS = 0.08, 4 / 255


def near(stage: rr.Stage, batches: list[tuple[torch.Tensor, ...]], attack: rr.Attack, model: rr.Adapted) -> dict[str, object]:
    """PSNR to the clean frame, with its interval, of what the stage makes of clean and of attacked frames."""
    metric, task, rows = rr.metrics.psnr(), rr.tasks.Segmentation(), {"no attack": [], "oblivious": []}
    for images, labels in batches:
        attacked = attack(model, images, task.untargeted(labels))
        with torch.no_grad():
            rows["no attack"].append(metric.measure(stage(images), images).cpu().numpy())
            rows["oblivious"].append(metric.measure(stage(attacked), images).cpu().numpy())
    found = {name: np.concatenate(row) for name, row in rows.items()}
    return {name: [round(float(v), 3) for v in (metric.value(row), *metric.interval(row))] for name, row in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--progress", type=Path, default=Path(tempfile.gettempdir()) / "robustrestore-priors")
    options = parser.parse_args()
    dataset = rr.data.CamVid(options.camvid, "val", rr.assets.STREET_SIZE)
    frames, steps = (len(dataset), 100) if options.scale == "full" else (options.frames, options.steps)
    picks = [k * len(dataset) // frames for k in range(frames)]
    batches = [tuple(t[None].to(options.device) for t in dataset[k]) for k in picks]
    model, attack = rr.assets.street_segmenter().to(options.device), rr.attacks.PGD(rr.Linf(EPS), steps=steps)
    stages = {
        name: rr.purifiers.Diffusion(rr.assets.prior(name), SIGMA, 1).to(options.device) for name in ("photographs", "open")
    }
    report = rr.evaluate(
        rr.DefendedPipeline(model, [stages["photographs"]]),
        track(batches, "frames"),
        rr.tasks.Segmentation(),
        [attack],
        baselines={"open": stages["open"]},
        folder=options.progress,
    )
    report.about |= {"frames": picks, "machine": harness.machine(options.device)}
    report.about["PSNR"] = {name: near(stage, batches, attack, model) for name, stage in stages.items()}
    write_text(harness.RESULTS / "priors.json", report.json())
    print(report)
    print(report.about["PSNR"])


if __name__ == "__main__":
    main()
