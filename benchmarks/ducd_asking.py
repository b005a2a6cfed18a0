"""What every part of ducd.py does: start the target in a process of its own, ask it over HTTP, distil, and compare answers."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import ducd_parts
import robustrestore as rr
from robustrestore import certify, oracle
from robustrestore.recipe import training

TASK = rr.tasks.Classification()
STEPS, BATCH = 800, 128
RADII: dict[certify.Norm, tuple[float, ...]] = {
    "l1": (0.0, 0.5, 1.0, 1.5, 2.0),
    "l2": (0.0, 0.25, 0.5, 0.75, 1.0),
    "linf": (0.0, 0.01, 0.02, 0.03, 0.04),
}


@contextmanager
def served(kind: str, options: argparse.Namespace, seed: int) -> Iterator[str]:
    """The URL of a target that answers in a process of its own, which ends with the block, or with this process."""
    weights = options.work / f"{kind}-{seed}.safetensors"
    port = str(options.port + seed)  # the same in each run: what was asked and certified is kept under the URL
    command = [sys.executable, str(Path(__file__).with_name("ducd_server.py")), kind, "--data", str(options.data)]
    command += ["--weights", str(weights), "--seed", str(seed), "--port", port]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.readline().split()
        if said[:1] != ["ready"]:
            raise SystemExit(f"{kind}: the target did not start")
        yield f"http://127.0.0.1:{said[1]}"
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def asking(url: str, cache: Path | None, tier: oracle.Tier | None = None, budget: int | None = None) -> oracle.Queried:
    """The target as an oracle, by NumPy files of up to 256 images."""
    place = oracle.Endpoint(url, oracle.NPY(), oracle.npy_answers, batch=256, patience=oracle.Patience(timeout=120))
    return oracle.Queried(place, tier, cache, budget)


def distilled(
    asked: oracle.Queried,
    data: Tensor | Dataset[Any],
    place: Path,
    seed: int,
    noise: certify.Noise | None = None,
    network: nn.Module | None = None,
    gap: oracle.Gap | None = None,
    steps: int = STEPS,
) -> nn.Module:
    """A surrogate of what is asked, by the recipe `Distill`; from `place` where it was trained before."""
    with rr.seeded(seed):
        learner = ducd_parts.surrogate() if network is None else network
    images = data if isinstance(data, Tensor) else torch.stack([data[k] for k in range(len(data))])  # type: ignore[arg-type]
    asked(images)
    recipe = rr.recipes.Distill(asked, learner, TASK, noise, gap)
    return ducd_parts.kept(place, learner, lambda: _learn(recipe, images, steps, seed))


def _learn(recipe: rr.recipes.Distill, images: Tensor, steps: int, seed: int) -> None:
    """What `rr.fit` does, without its seed for each image and its checkpoints, which take longer than networks this small."""
    how, own = rr.AdamW(lr=4e-3), torch.Generator().manual_seed(seed)
    with training(recipe) as weights, rr.seeded(seed):
        optimiser, order = how.make(weights), []
        for step in range(steps):
            order = order or list(torch.randperm(len(images), generator=own).split(BATCH))
            optimiser.param_groups[0]["lr"] = how.rate(step, steps)
            loss = recipe(rr.Batch(images[order.pop()]))["loss"]
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()


def agreement(
    asked: oracle.Queried, model: Callable[[Tensor], Tensor], noise: certify.Noise, images: Tensor
) -> dict[str, float]:
    """How often the model says what the target says of images that neither was trained on, clean and under noise.

    Noisy images go to the model as they are when it is smoothed, to the target clamped to [0, 1].
    """
    noisy = noise.applied(images, noise.sample_like(images, torch.Generator().manual_seed(0)))
    told, told_noisy = (asked.tier.truth(asked(part)) for part in (images, noisy.clamp(0, 1)))
    said, said_noisy = (torch.cat([model(x).argmax(1) for x in part.split(256)]) for part in (images, noisy))
    pairs = {
        "clean": (said, told),
        "noisy, with the target's clean answer": (said_noisy, told),
        "noisy, with the target's noisy answer": (said_noisy, told_noisy),
        "the target noisy, with its own clean answer": (told_noisy, told),
    }
    return {name: float((one == other).double().mean()) for name, (one, other) in pairs.items()}


def certified(
    model: Callable[[Tensor], Tensor],
    noise: certify.Noise,
    data: tuple[Tensor, Tensor],
    draws: tuple[int, int],
    folder: Path,
    seed: int,
) -> certify.CertifiedReport:
    """Certificates of the test images, which a killed run goes on with, derived once more from their counts."""
    batches = [(images, labels) for images, labels in zip(data[0].split(50), data[1].split(50), strict=True)]
    smoothed = certify.SmoothedClassifier(model, noise, 64)
    report = certify.measure_classifier(smoothed, batches, draws, 0.001, seed, folder / "progress")
    report.save(folder)
    if wrong := certify.recheck(folder):
        raise SystemExit(f"{folder}: {wrong[:3]}")
    return report


def figures(report: certify.CertifiedReport, norm: certify.Norm) -> dict[str, Any]:
    """Certified accuracy at the norm's radii, the average certified radius and the share that abstains, with intervals."""
    found = {f">= {radius:g}": report.certified_accuracy(radius, norm) for radius in RADII[norm]}
    return {**found, "ACR": report.acr(norm), "abstained": report.summary()["abstained"]}
