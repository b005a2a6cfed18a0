"""The bundled segmenter under every dense attack, on CamVid validation frames: mean IoU per attack, and the worst of them.

python benchmarks/segmenter_attacks.py --camvid PATH [--frames 8] [--steps 20] [--eps 2 8] [--device cuda] [--scale full]

`--scale full` takes all 101 frames and 100 steps. Writes results/segmenter_attacks.json; can be killed and started again.
"""

import argparse
import tempfile
from pathlib import Path

from rich.progress import track

import harness
import robustrestore as rr


def attacks(threat: rr.Threat, steps: int) -> dict[str, rr.Attack]:
    """By the name in the table; the last one is the per-image worst of a standard set."""
    ours, losses = rr.attacks, rr.losses
    return {
        "uniform noise": ours.UniformNoise(threat),
        "FGSM": ours.FGSM(threat),
        f"PGD-{steps}": ours.PGD(threat, steps),
        f"SegPGD-{steps}": ours.SegPGD(threat, steps),
        f"CosPGD-{steps}": ours.CosPGD(threat, steps),
        f"APGD-{steps}, balanced": ours.APGD(threat, steps, loss=losses.BalancedCrossEntropy()),
        f"APGD-{steps}, masked": ours.APGD(threat, steps, loss=losses.MaskedCrossEntropy()),
        f"APGD-{steps}, Jensen-Shannon": ours.APGD(threat, steps, loss=losses.JensenShannon()),
        f"SEA, 3 x {steps}": ours.SEA(threat, steps),
        f"ALMA-prox, {5 * steps} steps": ours.ALMAProx(threat, steps=5 * steps),
        "Worst": ours.Worst.segmentation(threat, steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--eps", type=float, nargs="+", default=[2, 8], help="of 255")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--progress", type=Path, default=Path(tempfile.gettempdir()) / "robustrestore-segmenter-attacks")
    options = parser.parse_args()
    dataset = rr.data.CamVid(options.camvid, "val", rr.assets.STREET_SIZE)
    frames, steps = (len(dataset), 100) if options.scale == "full" else (options.frames, options.steps)
    picks = [k * len(dataset) // frames for k in range(frames)]
    batches = [tuple(t[None].to(options.device) for t in dataset[k]) for k in picks]
    pipeline = rr.DefendedPipeline(rr.assets.street_segmenter()).to(options.device)
    content = {"about": {**harness.machine(options.device), "frames": picks, "seed": 0}, "results": {}}
    for eps in options.eps:
        named = attacks(rr.Linf(eps / 255), steps)
        report = rr.evaluate(
            pipeline, track(batches, f"eps {eps}/255"), rr.tasks.Segmentation(), list(named.values()),
            folder=options.progress / f"{eps:g}",
        )  # fmt: skip
        rows = {name: report.row("none", "-", repr(attack)) for name, attack in named.items()}
        rows = {"no attack": report.row("none", "-", "none"), **rows}
        content["results"][f"{eps:g}"] = {
            "rows": {
                name: {"mean IoU": [row.values["mean IoU"], *row.intervals["mean IoU"]],
                       "pixel accuracy": row.values["pixel accuracy"]}
                for name, row in rows.items()
            },
            "verdicts": report.verdicts,
        }  # fmt: skip
        harness.write("segmenter_attacks", content)
        print(eps, {name: round(row.values["mean IoU"], 3) for name, row in rows.items()})


if __name__ == "__main__":
    main()
