"""One training in one and in two processes: the validation metric against the spread of seeds, and the wall time.

python benchmarks/processes.py [--seeds 3] [--steps 200]

A derain network as large as the bundled one, on random crops of the bundled photographs, on the CPU, each process with one
thread. A step is as many images in either case, so two processes compute half each. Runs alternate between one process and
two. Needs two idle cores: on a busy machine the times say nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import harness
import robustrestore as rr


def train(out: Path, steps: int, seed: int) -> None:
    """In one of the processes: train, and let the main one write what it was worth and how long it took."""
    torch.set_num_threads(1)
    photographs = [image[0] for image in rr.assets.photographs().values()]
    rain = rr.degradations.Rain(seed=0)
    data = rr.data.Crops(rr.data.Degraded(photographs, [rain]), (64, 64))
    held = rr.data.Degraded([image[:, ::2, ::2] for image in photographs], [rain])
    with rr.seeded(seed):
        network = rr.restorers.UNet(width=32)  # as large as the bundled one
    pipeline = rr.DefendedPipeline(torch.nn.Identity(), [network])
    task = rr.tasks.Restoration()
    recipe = rr.recipes.Plain(pipeline, task, part="stages.0")
    plan = rr.Plan(steps=steps, batch=8, optimiser=rr.AdamW(lr=2e-3), every=steps, seed=seed)
    started = time.perf_counter()
    history = rr.fit(recipe, data, plan, rr.Validation(pipeline, held, task, batch=1), quiet=True)
    seconds = time.perf_counter() - started
    if int(os.environ.get("RANK", 0)) == 0:
        out.write_text(json.dumps({"PSNR": history.best["PSNR"], "seconds": seconds}), encoding="utf-8")


def run(processes: int, steps: int, seed: int) -> dict[str, float]:
    """One training in as many processes."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        own = [__file__, "--child", str(out), "--steps", str(steps), "--seed", str(seed)]
        command = [sys.executable, *(launcher if processes > 1 else []), *own]
        subprocess.run(command, env=env, check=True, capture_output=True)
        found: dict[str, float] = json.loads(out.read_text(encoding="utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path)
    options = parser.parse_args()
    if options.child is not None:
        return train(options.child, options.steps, options.seed)
    load = os.getloadavg()[0]
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        one, two = (run(processes, options.steps, seed) for processes in (1, 2))
        rows.append({"seed": seed, "one": one, "two": two, "ratio": two["seconds"] / one["seconds"]})
        print(rows[-1], flush=True)
    ratios = [row["ratio"] for row in rows]
    time_ratio = {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    about = {**harness.machine(), "threads a process": 1, "steps": options.steps, "load before": round(load, 1)}
    harness.write("processes", {"about": about, "rows": rows, "wall time of two over one": time_ratio})


if __name__ == "__main__":
    main()
