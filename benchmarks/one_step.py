"""What the distilled purifier of one call is worth beside its teacher of five steps, in front of the bundled segmenter.

    python benchmarks/one_step.py --camvid PATH --student runs/one-step/student.safetensors [--scale full] [--device cuda]

`training/one_step.py` makes the student. CamVid validation frames that its validation did not see; PGD at 4/255 with gradients
averaged over two draws, since the teacher draws anew. Writes results/one_step.json; can be killed and started again.
"""

import argparse
import copy
import tempfile
from pathlib import Path

from rich.progress import track

import harness
import robustrestore as rr
from robustrestore.files import sha256, write_text
from robustrestore.weights import load_weights

SIGMA, STEPS, SEEN = 0.08, 5, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--progress", type=Path, default=Path(tempfile.gettempdir()) / "robustrestore-one-step")
    options = parser.parse_args()
    dataset = rr.data.CamVid(options.camvid, "val", rr.assets.STREET_SIZE)
    left = len(dataset) - SEEN
    frames, steps = (left, 50) if options.scale == "full" else (options.frames, options.steps)
    picks = [SEEN + k * left // frames for k in range(frames)]
    batches = [tuple(t[None].to(options.device) for t in dataset[k]) for k in picks]
    student = rr.purifiers.Denoise(copy.deepcopy(rr.assets.prior()), sigma=SIGMA)
    untrained = rr.purifiers.Denoise(rr.assets.prior(), sigma=SIGMA)
    load_weights(student, options.student)
    teacher = rr.purifiers.Diffusion(rr.assets.prior(), sigma=SIGMA, steps=STEPS, seed=None)
    baselines = {
        "teacher, 5 steps": teacher,
        "the prior without noise": untrained,
        "Diffusion.default()": rr.purifiers.Diffusion.default(),
        "blur": rr.purifiers.Blur(),
    }
    pipeline = rr.DefendedPipeline(rr.assets.street_segmenter(), [student.requires_grad_(False)]).to(options.device)
    report = rr.evaluate(
        pipeline,
        track(batches, "frames"),
        rr.tasks.Segmentation(),
        [rr.attacks.PGD(rr.Linf(4 / 255), steps=steps, samples=2)],
        baselines={name: stage.to(options.device) for name, stage in baselines.items()},
        folder=options.progress,
    )
    report.about |= {"frames": picks, "student": sha256(options.student), "machine": harness.machine(options.device)}
    write_text(harness.RESULTS / "one_step.json", report.json())
    print(report)


if __name__ == "__main__":
    main()
