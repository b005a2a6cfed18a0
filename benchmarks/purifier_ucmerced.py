"""UC Merced for purification.py: RegNetX-200MF of training/aerial.py behind purifiers on the bundled prior.

python benchmarks/purification.py --set ucmerced --data FOLDER

FOLDER holds ucmerced (train, test) and aerial-regnetx_002/weights.safetensors; links will do. Two test images of each class,
all test images with `--scale full`. `--auxiliary`: the same network tuned by training/trades.py, for AGDM.
"""

from pathlib import Path

import robustrestore as rr
import ucmerced
from purifier_rows import Case
from purifier_sets import ROBUST, same
from robustrestore.purifiers import Diffusion

NETWORK = "regnetx_002"


def case(data: Path, full: bool, auxiliary: Path | None) -> Case:
    """There is no robust network for AGDM unless its weights, of the same architecture, are handed over."""
    images, labels = ucmerced.split(data / "ucmerced", "test")
    picks = [k for k in range(len(labels)) if full or k % 5 in (0, 2)]
    images, labels, default = images[picks], labels[picks], Diffusion.default()
    others, kinds = ucmerced.split(data / "ucmerced", "train")
    effort = {"steps": 10, "fewer": 3, "runs": 10, "attack_steps": 50, "samples": 10} if full else {"samples": 2}
    weights = data / f"aerial-{NETWORK}" / "weights.safetensors"
    robust = None if auxiliary is None else same(ucmerced.network(NETWORK, weights), auxiliary)
    return Case(
        model=ucmerced.network(NETWORK, weights),
        batches=list(zip(images.split(21), labels.split(21), strict=True)),
        task=rr.tasks.Classification(),
        denoiser=default.denoiser,
        sigma=default.sigma,
        **effort,
        auxiliary=robust,
        alone={} if robust is None else {ROBUST: robust},
        agdm=25.0,
        tuning=[(others[::60], kinds[::60])],  # an image of every second class
        few=Case.few if full else ("blur", "JPEG", "one-step"),
        checkpointed=full,
        about={"network": NETWORK, "size": ucmerced.SIZE, "images": picks},
    )
