"""One training in one and in two processes: the validation metric against the spread of seeds, and the wall time.

python benchmarks/processes.py [--seeds 3] [--steps 100] [--attacked 30] [--crop 128]

A derain network as large as the bundled one, on random crops of the bundled photographs, on the CPU, each process with one
thread. A step is as many images in either case, so two processes compute half each. Runs alternate between one process and
two. `--attacked`: steps of adversarial training, PGD-3, beside those of plain training. The floor is two processes at once that
take half of each step by themselves and never speak. Needs two idle cores: on a busy machine the times say nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import harness
import robustrestore as rr


def train(out: Path, steps: int, seed: int, attacked: bool, batch: int, crop: int) -> None:
    """In one of the processes: train, and let the main one write what it was worth and how long it took."""
    torch.set_num_threads(1)
    photographs = [image[0] for image in rr.assets.photographs().values()]
    rain = rr.degradations.Rain(seed=0)
    data = rr.data.Crops(rr.data.Degraded(photographs, [rain]), (crop, crop))
    held = rr.data.Degraded([image[:, ::2, ::2] for image in photographs], [rain])
    with rr.seeded(seed):
        network = rr.restorers.UNet(width=32)  # as large as the bundled one
    pipeline = rr.DefendedPipeline(torch.nn.Identity(), [network])
    task = rr.tasks.Restoration()
    attack = rr.attacks.PGD(rr.Linf(4 / 255), steps=3, seed=None)
    recipe: rr.Recipe = rr.recipes.Plain(pipeline, task, part="stages.0")
    if attacked:
        recipe = rr.recipes.AdversarialTraining(pipeline, task, attack, part="stages.0")
    plan = rr.Plan(steps=steps, batch=batch, optimiser=rr.AdamW(lr=2e-3), every=steps, seed=seed)
    started = time.perf_counter()
    history = rr.fit(recipe, data, plan, rr.Validation(pipeline, held, task, batch=1), quiet=True)
    seconds = time.perf_counter() - started
    if int(os.environ.get("RANK", 0)) == 0:
        out.write_text(json.dumps({"PSNR": history.best["PSNR"], "seconds": seconds}), encoding="utf-8")


def start(out: Path, processes: int, steps: int, seed: int, attacked: bool, batch: int, crop: int) -> subprocess.Popen[bytes]:
    """One training in as many processes, begun."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    own = [__file__, "--child", str(out), "--steps", str(steps), "--seed", str(seed)]
    own += ["--batch", str(batch), "--crop", str(crop)]
    command = [sys.executable, *(launcher if processes > 1 else []), *own, *(["--attack"] if attacked else [])]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(processes: list[int], steps: int, seed: int, attacked: bool, crop: int, batch: int = 8) -> list[dict[str, float]]:
    """Trainings at once, each in as many processes: what they found."""
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / f"{k}.json" for k in range(len(processes))]
        begun = [start(out, count, steps, seed, attacked, batch, crop) for out, count in zip(outs, processes, strict=True)]
        if codes := [code for one in begun if (code := one.wait())]:
            raise SystemExit(f"a training ended with {codes}")
        return [json.loads(out.read_text(encoding="utf-8")) for out in outs]


def compared(steps: int, seed: int, attacked: bool, crop: int) -> dict[str, Any]:
    """One process, two, and two that never speak."""
    (one,), (two,) = run([1], steps, seed, attacked, crop), run([2], steps, seed, attacked, crop)
    halves = run([1, 1], steps, seed, attacked, crop, batch=4)
    floor = max(half["seconds"] for half in halves) / one["seconds"]
    row = {"recipe": "adversarial" if attacked else "plain", "steps": steps, "seed": seed, "one": one, "two": two}
    return {**row, "ratio": two["seconds"] / one["seconds"], "floor": floor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--attacked", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--attack", action="store_true")
    parser.add_argument("--child", type=Path)
    options = parser.parse_args()
    if options.child is not None:
        return train(options.child, options.steps, options.seed, options.attack, options.batch, options.crop)
    load, rows = os.getloadavg()[0], []
    for attacked, steps in ((False, options.steps), (True, options.attacked)):
        for seed in range(options.seeds):
            rows.append(compared(steps, seed, attacked, options.crop))
            print(rows[-1], flush=True)
    about = {**harness.machine(), "threads a process": 1, "crop": options.crop, "load before": round(load, 1)}
    harness.write("processes", {"about": about, "rows": rows})


if __name__ == "__main__":
    main()
