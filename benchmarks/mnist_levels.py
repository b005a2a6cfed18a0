"""How much noise takes an attack out of MNIST digits that were attacked without knowing the purifier, and what is kept.

python benchmarks/mnist_levels.py --data FOLDER [--images 200]

FOLDER holds mnist and weights. PGD-40 on the bare LeNet5, twice: once each image is left as soon as it is misclassified, as
robust accuracy is usually counted, and once the image of highest loss is handed on. Writes results/mnist_levels.json.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ddpm_mnist
import harness
import published
import robustrestore as rr
from robustrestore import diffusion, purifiers
from robustrestore.modes import seeded

TIMES = (120, 160, 200, 250, 300)


def stages(denoiser: diffusion.Denoiser) -> dict[str, rr.Stage | None]:
    """Levels in timesteps, processes, and the purifier run again and again on its own result."""
    grid = diffusion.TimestepGrid()
    found: dict[str, rr.Stage | None] = {"no defence": None}
    for time in TIMES:
        one = purifiers.Diffusion(denoiser, grid.sigma(time), 1, diffusion.OneStep(), seed=None)
        found[f"one-step, t = {time}"] = one
    for name, sampler in (("DDIM", diffusion.DDIM(grid=grid)), ("DDPM", diffusion.DDPM(grid)), ("DiffPure", diffusion.VPSDE())):
        found[f"{name}, 5 steps, t = 200"] = purifiers.Diffusion(denoiser, grid.sigma(200), 5, sampler, seed=None)
    chain = found["DDPM, 5 steps, t = 200"]
    for often in (2, 4):
        found[f"DDPM, {often} rounds of 5 steps, t = 200"] = purifiers.Rounds(chain, [[grid.sigma(200), 5]] * often)
    return found


def share(model: nn.Module, stage: rr.Stage | None, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy with its interval; one draw an image."""
    task = rr.tasks.Classification()
    (metric,) = task.metrics()
    with torch.no_grad(), seeded(0):
        statistics = metric.measure(model(images if stage is None else stage(images)), labels).double().numpy()
    return {"value": round(metric.value(statistics), 6), "interval": [round(v, 6) for v in metric.interval(statistics)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    images, labels = published.images(options.data / "mnist" / "test_first5000.npz", options.images)
    model = published.lenet5(options.data / "weights" / "mnist_lenet5_clean.pt")
    attack, objective = rr.attacks.PGD(rr.Linf(0.3), steps=40), rr.tasks.Classification().untargeted(labels)
    shown = {
        "no attack": images,
        "left once misclassified": attack(model, images, objective.judged()),
        "highest loss": attack(model, images, objective),
    }
    rows = {
        name: {what: share(model, stage, seen, labels) for what, seen in shown.items()}
        for name, stage in stages(ddpm_mnist.load(options.data / "weights" / "ddpm_mnist.pt")).items()
    }
    about = {"images": options.images, "attack": repr(attack), "seed": 0, "machine": harness.machine()}
    harness.write("mnist_levels", {"about": about, "rows": rows})
    print("\n".join(f"{name}: {[cell['value'] for cell in row.values()]}" for name, row in rows.items()))


if __name__ == "__main__":
    main()
