"""Which noise level and how many steps suit the bundled prior: CamVid frames that street.py does not take by default.

python benchmarks/levels.py --camvid PATH [--device cuda]

Mean IoU of the bundled segmenter behind the purifier, without attack and under an oblivious PGD-20 at 4/255. It chooses a
default; it is no measure of robustness.
"""

import argparse
from pathlib import Path

import torch

import harness
import robustrestore as rr

FRAMES = (10, 35, 60, 85)
LEVELS, STEPS = (0.03, 0.05, 0.08, 0.12), (1, 2, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    dataset = rr.data.CamVid(options.camvid, "val", rr.assets.STREET_SIZE)
    images, labels = (torch.stack(t).to(options.device) for t in zip(*(dataset[k] for k in FRAMES), strict=True))
    segmenter, task = rr.assets.street_segmenter().to(options.device), rr.tasks.Segmentation()
    metric = task.metrics()[0]
    attacked = rr.attacks.PGD(rr.Linf(4 / 255), steps=20)(segmenter, images, task.untargeted(labels))

    def score(stages: list[rr.Stage]) -> list[float]:
        pipeline = rr.DefendedPipeline(segmenter, stages).to(options.device).eval()
        with torch.no_grad():
            found = [metric.measure(pipeline(x), labels).cpu().numpy() for x in (images, attacked)]
        return [round(metric.value(statistics), 3) for statistics in found]

    prior = rr.assets.prior()
    rows = {"no defence": score([])}
    for sigma in LEVELS:
        for steps in STEPS:
            rows[f"sigma {sigma}, steps {steps}"] = score([rr.purifiers.Diffusion(prior, sigma=sigma, steps=steps)])
    about = {**harness.machine(options.device), "frames": FRAMES, "attack": "PGD-20, Linf 4/255, oblivious", "seed": 0}
    harness.write("levels", {"about": about, "mean_iou": rows})
    print(rows)


if __name__ == "__main__":
    main()
