"""A camera behind a display: train a restorer on simulated displays, then tune it to what a purifier makes of attacked images.

    python examples/udc_phone_camera.py --photographs FOLDER --steps 5000 --out runs/udc

Without --photographs it shows the way on four photographs at toy size, whose numbers say nothing. Displays are simulated, not
measured. Beside the tuned restorer stands its control, adversarial training without a purifier at equal budget.
"""

import argparse
import copy
from pathlib import Path

import robustrestore as rr

TASK, THREAT = rr.tasks.Restoration(), rr.Linf(2 / 255)


def scenes(folder: Path | None) -> tuple[rr.data.Degraded, rr.data.Degraded]:
    """For training and for testing, with neither a scene nor a display in common."""
    photographs = [photograph[0, :, :64, :80] for photograph in rr.assets.photographs().values()]
    clean = rr.data.Scenes(photographs if folder is None else rr.data.ImageFolder(folder))
    size = 45 if folder is None else 293
    displays = [rr.degradations.UnderDisplay(rr.degradations.POLED(size, seed=k)) for k in range(5)]
    return rr.data.Degraded.split(clean, displays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, help="a folder of them, at least as large as --crop")
    parser.add_argument("--steps", type=int, default=2, help="to train, and again to tune")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--crop", type=int, default=48)
    parser.add_argument("--out", type=Path, help="for checkpoints; a killed run goes on there")
    options = parser.parse_args()
    train, held = scenes(options.photographs)
    crops = rr.data.Crops(train, (options.crop, options.crop))  # no flips: a display has a direction
    folders = [None if options.out is None else options.out / name for name in ("plain", "purified", "adversarial")]
    plan = rr.Plan(options.steps, options.batch, rr.AdamW(lr=1e-3))

    restorer = rr.restorers.NAFNet(width=16 if options.photographs else 4)
    print(rr.fit(rr.recipes.Plain(restorer, TASK), crops, plan, folder=folders[0]))

    attack = rr.attacks.PGD(THREAT, steps=3, seed=None)
    gentle = plan.replace(optimiser=rr.AdamW(lr=1e-4, floor=0.01))
    purified = rr.DefendedPipeline(copy.deepcopy(restorer), [rr.purifiers.Diffusion.default().replace(sigma=0.05)])
    tuned = rr.recipes.PurifyFinetune(purified, TASK, attack, through="model")
    print(rr.finetune(purified, crops, tuned, gentle, folder=folders[1])[1])
    control = rr.DefendedPipeline(copy.deepcopy(restorer), [])
    hardened = rr.recipes.AdversarialTraining(control, TASK, attack, share=0.5)
    print(rr.finetune(control, crops, hardened, gentle, folder=folders[2])[1])

    views = rr.data.Crops(held, (options.crop, options.crop))
    with rr.seeded(0):
        batches = [(views[k]["images"][None], views[k]["target"][None]) for k in range(min(8, len(views)))]
    strong = rr.attacks.PGD(THREAT, steps=20 if options.photographs else 2)
    plain = rr.DefendedPipeline(restorer, [])
    for name, pipeline in {"Trained only": plain, "Purify and tune": purified, "Adversarial training": control}.items():
        print(f"{name}, each attacked anew by who knows it")
        print(rr.evaluate(pipeline, batches, TASK, [strong], baselines=[rr.purifiers.Blur()]))


if __name__ == "__main__":
    main()
