"""How fast attacks are: ours and the peers' beside a bare loop, alternating in one run, as CPU time on one thread.

python benchmarks/attacks.py --data PATH [--steps 20] [--rounds 7] [--device cuda] [--json]

The floor is what any such attack has to pay: forward, gradient in the images, projection, and nothing else. Peers that are
not installed, or that refuse the model, are named as such. PATH holds cifar10, mnist and weights. `--json` writes
results/attacks.json; it fails where we miss our own limits: PGD 1.05 of the floor, APGD 1.10, memory 1.05, PGD-20 that drops
broken images 0.6.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import contestants
import harness
import published
import robustrestore as rr

EPS, STEP = 8 / 255, 2 / 255
LIMITS = {"PGD": 1.05, "APGD": 1.10, "memory": 1.05, "dropping": 0.6}
PEERS = ("torchattacks", "foolbox", "adversarial-robustness-toolbox", "torchattack", "adv-lib", "pyautoattack", "timm")


def classifier() -> tuple[nn.Module, Tensor, Tensor]:
    """ResNet-18 with drawn weights on 16 images of 64 x 64; the labels are what it says."""
    import timm

    with rr.seeded(0):
        model, images = timm.create_model("resnet18", num_classes=10).eval(), torch.rand(16, 3, 64, 64)
    return model, images, model(images).argmax(1)


def segmenter() -> tuple[nn.Module, Tensor, Tensor]:
    """A U-Net on ResNet-18 with drawn weights on 4 images of 128 x 128; the labels are what it says."""
    import segmentation_models_pytorch as smp

    with rr.seeded(0):
        model, images = smp.Unet("resnet18", encoder_weights=None, classes=5).eval(), torch.rand(4, 3, 128, 128)
    return model, images, model(images).argmax(1)


def floor(model: nn.Module, images: Tensor, target: Tensor, steps: int) -> Tensor:
    """The bare loop."""
    current = images
    for _ in range(steps):
        leaf = current.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), target), leaf)
        current = (images + (leaf.detach() + STEP * gradient.sign() - images).clamp(-EPS, EPS)).clamp(0, 1)
    return current


def ours(task: rr.Task, steps: int) -> dict[str, Callable[..., Tensor]]:
    """Our attacks with the same steps: every image to the end, nothing dropped."""
    threat = rr.Linf(EPS)
    attacks = {
        "robustrestore PGD": rr.attacks.PGD(threat, steps, step=STEP),
        "robustrestore APGD": rr.attacks.APGD(threat, steps),
    }
    return {name: lambda m, x, y, a=attack: a(m, x, task.untargeted(y)) for name, attack in attacks.items()}


def race(field: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Each contestant once a round, after the floor of that round: ratios."""
    found: dict[str, list[float]] = {name: [] for name in field if name != "floor"}
    for name, run in field.items():
        if name != "floor":
            run()
    for _ in range(rounds):
        for name in found:
            base = harness.timed(field["floor"], device)
            found[name].append(harness.timed(field[name], device) / base)
    return found


def usable(field: dict[str, Callable[..., Tensor]], *case: object) -> tuple[dict[str, Callable[..., Tensor]], dict[str, str]]:
    """Who can attack this model at all; what the others say."""
    able, refused = {}, {}
    for name, run in field.items():
        try:
            found = run(*case)
            gone = float((torch.as_tensor(found).to(case[1]) - case[1]).abs().max())
            if gone > EPS * 1.01 or gone == 0:
                raise ValueError(f"moved images by {gone * 255:.2f}/255")
            able[name] = run
        except Exception as error:
            refused[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''}"
    return able, refused


def compare(case: tuple[nn.Module, Tensor, Tensor], task: rr.Task, options: argparse.Namespace) -> dict[str, object]:
    model, images, target = (part.to(options.device) for part in case)
    peers, absent = contestants.installed(EPS, STEP, options.steps)
    able, refused = usable({**ours(task, options.steps), **peers}, model, images, target)
    field = {name: (lambda run=run: run(model, images, target)) for name, run in able.items()}
    field["floor"] = lambda: floor(model, images, target, options.steps)
    ratios = race(field, options.rounds, options.device)
    return {
        "ratio to the floor": {
            name: harness.summary(values) for name, values in sorted(ratios.items(), key=lambda i: min(i[1]))
        },
        "refuses": refused,
        "not installed": absent,
    }


def dropping(options: argparse.Namespace) -> dict[str, object]:
    """PGD-20 on a judged objective against the floor's PGD-20: published networks, the same set, the same question."""
    found, attack = {}, rr.attacks.PGD(rr.Linf(EPS), 20, step=STEP)
    cases = published.cases(options.data)
    for name in ("ResNet-20, CIFAR-10", "CNN adversarially trained at 2/255, CIFAR-10"):
        model, images, target = (part.to(options.device) for part in cases[name][:3])
        goal = rr.tasks.Classification().untargeted(target).judged()
        ends = {"clean": images, "floor": floor(model, images, target, 20), "dropping": attack(model, images, goal)}
        with torch.no_grad():
            accuracy = {end: float((model(x).argmax(1) == target).float().mean()) for end, x in ends.items()}
        field = {
            "floor": lambda m=model, x=images, y=target: floor(m, x, y, 20),
            "dropping": lambda m=model, x=images, g=goal: attack(m, x, g),
        }
        found[name] = {
            "images": len(images),
            "accuracy": {end: round(value, 4) for end, value in accuracy.items()},
            "ratio to the floor": harness.summary(race(field, options.rounds, options.device)["dropping"]),
        }
    return found


def memory(steps: int) -> dict[str, object]:
    """Peak memory of fresh processes, in MiB above the model and its data."""
    found = {}
    for name in ("floor", "robustrestore PGD", "robustrestore APGD"):
        runs = [float(harness.fresh(__file__, "--peak", name, "--steps", str(steps))) for _ in range(3)]
        found[name] = round(statistics.median(runs), 1)
    ratios = {name: round(value / found["floor"], 3) for name, value in found.items() if name != "floor"}
    return {"peak MiB": found, "ratio to the floor": ratios}


def peak(name: str, steps: int) -> float:
    """MiB of resident memory that one attack adds at its peak to what the process holds before it (Linux)."""
    torch.set_num_threads(1)
    model, images, target = segmenter()
    images, target = images.repeat(4, 1, 1, 1), target.repeat(4, 1, 1)
    field = {**ours(rr.tasks.Segmentation(), steps), "floor": lambda m, x, y: floor(m, x, y, steps)}
    field[name](model, images[:1], target[:1])
    return harness.peak(lambda: field[name](model, images, target))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="write results/attacks.json")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak(options.peak, options.steps))
        return
    torch.set_num_threads(1)
    found = {
        "about": {
            **harness.machine(options.device),
            "steps": options.steps,
            "rounds": options.rounds,
            "peers": {name: version for name in PEERS if (version := harness.version(name))},
            "time": "CPU time, one thread" if options.device == "cpu" else "wall clock",
        },
        "classifier": compare(classifier(), rr.tasks.Classification(), options),
        "segmenter": compare(segmenter(), rr.tasks.Segmentation(), options),
        **({"dropping": dropping(options)} if options.data else {}),
    }
    name = "attacks" if options.device == "cpu" else "attacks_cuda"
    if options.json:
        harness.write(name, found)
    if options.device == "cpu":
        found["memory"] = memory(options.steps)
    print(json.dumps(found, indent=2))
    if options.json:
        harness.write(name, found)
    sys.exit(_missed(found))


def _missed(found: dict[str, object]) -> str | None:
    """What is above our limits, as a message; None where nothing is."""
    rows = [(f"{case} {name}", found[case]["ratio to the floor"][f"robustrestore {name}"]["median"], LIMITS[name])
            for case in ("classifier", "segmenter") for name in ("PGD", "APGD")]  # fmt: skip
    for name, row in found.get("dropping", {}).items():
        rows.append((f"dropping, {name}", row["ratio to the floor"]["median"], LIMITS["dropping"]))
    rows += [
        (f"memory {n}", value, LIMITS["memory"]) for n, value in found.get("memory", {}).get("ratio to the floor", {}).items()
    ]
    over = [f"{name} {value} > {limit}" for name, value, limit in rows if value > limit]
    return "; ".join(over) or None


if __name__ == "__main__":
    main()
