"""Our attacks beside torchattacks' with the same budget, on published classifiers: robust accuracy, 95 % intervals.

python benchmarks/parity.py --data PATH [--device cuda] [--attacks PGD MI-FGSM]

PATH holds mnist, cifar10 and weights. 500 digits; of CIFAR-10 the 100 images that are at hand without loss. Writes
results/parity.json, after every model; fails where ours leaves more than one point and the interval's half more.
"""

import argparse
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
import torchattacks
from scipy.stats import binomtest
from torch import Tensor, nn

import harness
import published
import robustrestore as rr

STEPS = 40
QUERIES = 500


def pairs(eps: float) -> dict[str, tuple[rr.Attack, Callable[[nn.Module], object]]]:
    """Ours and theirs, at the same steps, step sizes and queries."""
    threat, step = rr.Linf(eps), eps / 4
    ours = rr.attacks
    return {
        "FGSM": (ours.FGSM(threat), lambda m: torchattacks.FGSM(m, eps=eps)),
        "PGD": (ours.PGD(threat, STEPS, step=step), lambda m: torchattacks.PGD(m, eps=eps, alpha=step, steps=STEPS)),
        "MI-FGSM": (
            ours.MIFGSM(threat, STEPS, step=step),
            lambda m: torchattacks.MIFGSM(m, eps=eps, alpha=step, steps=STEPS),
        ),
        "APGD-CE": (ours.APGD(threat, STEPS), lambda m: torchattacks.APGD(m, eps=eps, steps=STEPS)),
        "Square": (
            ours.Square(threat, queries=QUERIES, loss=rr.losses.Margin()),
            lambda m: torchattacks.Square(m, eps=eps, n_queries=QUERIES, loss="margin"),
        ),
    }


def share(model: nn.Module, images: Tensor, target: Tensor) -> dict[str, object]:
    """Robust accuracy in percent with its exact interval."""
    with torch.no_grad():
        hits = int((model(images).argmax(1) == target).sum())
    found = binomtest(hits, len(target)).proportion_ci(0.95, method="exact")
    return {
        "percent": round(100 * hits / len(target), 2),
        "interval": [round(100 * found.low, 2), round(100 * found.high, 2)],
    }


def theirs(make: Callable[[nn.Module], object], model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """torchattacks leaves its traces on generators and modes: put back here."""
    with rr.seeded(0), rr.evaluating(model):
        return make(model)(images, target).detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--attacks", nargs="*")
    options = parser.parse_args()
    content = {
        "about": {
            **harness.machine(options.device),
            "torchattacks": metadata.version("torchattacks"),
            "steps": STEPS, "queries": QUERIES, "seed": 0,
        },
        "results": {},
    }  # fmt: skip
    worse = []
    for name, (model, *case, eps) in published.cases(options.data).items():
        model, images, target = model.to(options.device), *(part.to(options.device) for part in case)
        goal = rr.tasks.Classification().untargeted(target).judged()
        rows = {"clean": share(model, images, target)}
        for attack, (own, make) in pairs(eps).items():
            if options.attacks and attack not in options.attacks:
                continue
            mine = share(model, own(model, images, goal), target)
            peer = share(model, theirs(make, model, images, target), target)
            rows[attack] = {"robustrestore": mine, "torchattacks": peer}
            half = (peer["interval"][1] - peer["interval"][0]) / 2
            if mine["percent"] > peer["percent"] + max(1, half):
                worse.append(f"{name}, {attack}: {mine['percent']} against {peer['percent']}")
            print(f"{name}: {attack} {mine['percent']} ours, {peer['percent']} torchattacks")
        content["results"][name] = {"images": len(target), "eps": round(eps, 5), "rows": rows}
        harness.write("parity", content)
    sys.exit("; ".join(worse) or None)


if __name__ == "__main__":
    main()
