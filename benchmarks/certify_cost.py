"""What certification costs: CPU time over the floor, memory, and the same job by ART's randomised smoothing.

python benchmarks/certify.py cost [--threads 1]

The floor of a certificate of n0 + n draws is n0 + n bare forwards of images of its size under noise that was drawn before, at
the same batch size, without gradients, and nothing else: no noise drawn, nothing counted. In each round half of the floor runs
before and half after what is measured, so that a machine that grows slower or faster does both alike; the figure is the median
of the ratios of CPU time. ART (adversarial-robustness-toolbox) is no dependency: where it is absent the comparison is left out.
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import robustrestore as rr
from robustrestore import certify

SIGMA, ROUNDS = 0.25, 9
Job = Callable[[], object]


def _timed(job: Job) -> float:
    started = time.process_time()
    job()
    return time.process_time() - started


def _forwards(model: Callable[[Tensor], Tensor], noisy: Tensor, count: int) -> Job:
    def job() -> None:
        with torch.no_grad():
            for _ in range(count // len(noisy)):
                model(noisy)

    return job


def ratios(jobs: dict[str, Job], half: Job) -> dict[str, dict[str, float]]:
    """Each job's CPU time over twice that of `half`, which runs before and after it; median and range over the rounds."""
    for job in (half, *jobs.values()):
        job()
    seen: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            before, own, after = _timed(half), _timed(job), _timed(half)
            seen[name].append(own / (before + after))
    return {name: {"median": statistics.median(r), "lowest": min(r), "highest": max(r)} for name, r in seen.items()}


def _noisy(images: Tensor, chunk: int) -> Tensor:
    return images.expand(chunk, *images.shape[1:]) + SIGMA * torch.randn(chunk, *images.shape[1:])


def _art(network: nn.Module, images: Tensor, draws: tuple[int, int], chunk: int) -> Job | None:
    """ART's certificate of the same model, which wants the normalisation outside; None where ART is absent."""
    try:
        from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
    except ImportError as error:
        print(f"ART is absent, so it is not compared: pip install adversarial-robustness-toolbox ({error})")
        return None
    smoothed = PyTorchRandomizedSmoothing(
        model=network,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=10,
        clip_values=None,
        sample_size=draws[0],
        scale=SIGMA,
        device_type="cpu",
    )
    given = images.numpy()
    return lambda: smoothed.certify(given, n=draws[1], batch_size=chunk)


def _rss() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def memory(n: int) -> None:
    """In a process of its own: MiB above the loaded model while a map of 240 x 180 is certified; printed."""
    model = rr.assets.street_segmenter()
    smoothed = certify.SmoothedSegmenter(model, certify.Gaussian(SIGMA))
    before = _rss()
    smoothed.certify(torch.rand(1, 3, 180, 240), n0=20, n=n, alpha=0.1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before)


def _classifier(found: dict[str, Any]) -> None:
    from certify_data import MEAN, STD, ResNet20

    model, image, chunk, draws = rr.Adapted(ResNet20().eval(), MEAN, STD).eval(), torch.rand(1, 3, 32, 32), 64, (64, 960)
    one = certify.SmoothedClassifier(model, certify.Gaussian(SIGMA), chunk)
    jobs: dict[str, Job] = {"robustrestore": lambda: one.certify(image, *draws)}
    art = _art(model, image, draws, chunk)
    if art is not None:
        import art as library

        jobs["ART"], found["ART"] = art, library.__version__
    half = _forwards(model, _noisy(image, chunk), sum(draws) // 2)
    for name, ratio in ratios(jobs, half).items():
        found["rows"].append({"model": "ResNet-20, 32 x 32", "by": name, "n": draws[1], "chunk": chunk, **ratio})


def _segmenter(found: dict[str, Any]) -> None:
    model, image, chunk, draws = rr.assets.street_segmenter(), torch.rand(1, 3, 180, 240), 4, (8, 56)
    two = certify.SmoothedSegmenter(model, certify.Gaussian(SIGMA), chunk=chunk)
    half = _forwards(model, _noisy(image, chunk), sum(draws) // 2)
    (ratio,) = ratios({"robustrestore": lambda: two.certify(image, *draws, alpha=0.5)}, half).values()
    found["rows"].append({"model": "segmenter, 240 x 180", "by": "robustrestore", "n": draws[1], "chunk": chunk, **ratio})


def cost(threads: int) -> dict[str, Any]:
    """All of it."""
    torch.manual_seed(0)
    found: dict[str, Any] = {"rounds": ROUNDS, "rows": []}
    _classifier(found)
    _segmenter(found)
    peaks = {}
    for n in (100, 1000):
        script = Path(__file__).with_name("certify.py")
        command = [sys.executable, str(script), "memory", "--n", str(n), "--threads", str(threads)]
        peaks[str(n)] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {**found, "MiB above the model by n": peaks}
