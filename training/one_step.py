"""Teach a purifier of one network call what one of five steps does, in front of the bundled street segmenter.

    python training/one_step.py --camvid PATH --out runs/one-step

The student starts as the bundled prior, told that the image holds noise. Writes student.safetensors, the weights with the best
mean IoU under attack.
"""

import argparse
import copy
from pathlib import Path

from safetensors.torch import save_file

import robustrestore as rr
from windows import Windows

SIGMA, STEPS = 0.08, 5


def teacher() -> rr.Purifier:
    """The purifier of five steps, drawn anew for each batch."""
    return rr.purifiers.Diffusion(rr.assets.prior(), sigma=SIGMA, steps=STEPS, seed=None)


def student() -> rr.Purifier:
    """One call of a copy of the prior."""
    return rr.purifiers.Denoise(copy.deepcopy(rr.assets.prior()), sigma=SIGMA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--weight", type=float, default=0.01, help="of the segmenter's loss behind the student")
    parser.add_argument(
        "--precision", default="bf16", choices=rr.training.plan.PRECISIONS, help="bf16 halves the time on recent processors"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    segmenter, task, threat = rr.assets.street_segmenter(), rr.tasks.Segmentation(), rr.Linf(4 / 255)
    one = student()
    attack = rr.attacks.PGD(threat, steps=2, step=threat.eps / 2, seed=None)
    recipe = rr.recipes.DistillPurifier(teacher(), one, segmenter, task, attack, weight=options.weight)
    held = Windows(options.camvid, "val", None)
    pipeline = rr.DefendedPipeline(segmenter, [one])
    validation = rr.Validation(pipeline, held, task, rr.attacks.PGD(threat, steps=5), batch=4, limit=8)
    plan = rr.Plan(
        options.steps,
        options.batch,
        rr.AdamW(lr=options.lr),
        average=0.99,
        precision=options.precision,
        every=40,
        seed=options.seed,
    )
    print(rr.fit(recipe, Windows(options.camvid), plan, validation, options.out))
    save_file({name: tensor.contiguous() for name, tensor in one.state_dict().items()}, options.out / "student.safetensors")


if __name__ == "__main__":
    main()
