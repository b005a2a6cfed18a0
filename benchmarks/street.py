"""What purification is worth for the bundled segmenter on CamVid validation frames, baselines beside it.

python benchmarks/street.py --camvid PATH [--frames 16] [--steps 20] [--eps 4] [--device cuda] [--scale full]

`--scale full` takes all 101 frames and PGD-100. Writes results/street.json; can be killed and started again.
"""

import argparse
import tempfile
from pathlib import Path

from rich.progress import track

import harness
import robustrestore as rr
from robustrestore.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--eps", type=float, default=4, help="of 255")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--progress", type=Path, default=Path(tempfile.gettempdir()) / "robustrestore-street")
    options = parser.parse_args()
    dataset = rr.data.CamVid(options.camvid, "val", rr.assets.STREET_SIZE)
    frames, steps = (len(dataset), 100) if options.scale == "full" else (options.frames, options.steps)
    picks = [k * len(dataset) // frames for k in range(frames)]
    batches = [tuple(t[None].to(options.device) for t in dataset[k]) for k in picks]
    pipeline = rr.DefendedPipeline(rr.assets.street_segmenter(), [rr.purifiers.Diffusion.default()]).to(options.device)
    baselines = [rr.purifiers.Blur(), rr.purifiers.Jpeg(), rr.purifiers.Median(), rr.purifiers.BitDepth()]
    attack = rr.attacks.PGD(rr.Linf(options.eps / 255), steps=steps)
    report = rr.evaluate(
        pipeline,
        track(batches, "frames"),
        rr.tasks.Segmentation(),
        [attack],
        baselines=[stage.to(options.device) for stage in baselines],
        folder=options.progress,
    )
    report.about |= {"frames": picks, "machine": harness.machine(options.device)}
    write_text(harness.RESULTS / "street.json", report.json())
    print(report)


if __name__ == "__main__":
    main()
