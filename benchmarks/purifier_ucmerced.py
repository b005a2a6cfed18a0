"""UC Merced for purification.py: RegNetX-200MF of training/aerial.py behind purifiers on the bundled prior.

python benchmarks/purification.py --set ucmerced --data FOLDER

FOLDER holds ucmerced (train, test) and aerial-regnetx_002/weights.safetensors; links will do. One test image of each class,
all test images with `--scale full`.
"""

from pathlib import Path

import robustrestore as rr
import ucmerced
from purifier_rows import Case
from robustrestore.purifiers import Diffusion

NETWORK = "regnetx_002"


def case(data: Path, full: bool, auxiliary: Path | None) -> Case:
    """There is no robust network for AGDM unless its weights, of the same architecture, are handed over."""
    images, labels = ucmerced.split(data / "ucmerced", "test")
    step, default = 1 if full else 5, Diffusion.default()
    images, labels = images[::step], labels[::step]
    effort = {"steps": 10, "fewer": 3, "runs": 10, "attack_steps": 50, "samples": 10} if full else {"samples": 2}
    return Case(
        model=ucmerced.network(NETWORK, data / f"aerial-{NETWORK}" / "weights.safetensors"),
        batches=list(zip(images.split(21), labels.split(21), strict=True)),
        task=rr.tasks.Classification(),
        denoiser=default.denoiser,
        sigma=default.sigma,
        **effort,
        auxiliary=None if auxiliary is None else ucmerced.network(NETWORK, auxiliary),
        few=Case.few if full else ("blur", "JPEG", "one-step"),
        thorough=Case.thorough if full else ("one-step", "DDPM"),
        known=Case.known if full else ("one-step", "DDPM"),
        checkpointed=full,
        about={"network": NETWORK, "size": ucmerced.SIZE, "every": step},
    )
