"""What purification costs: over its bare network calls, beside diffusers, optimised, its gradients, and a large frame.

python benchmarks/purifiers.py [--only overhead,peers,...] [--frame PNG] [--rounds 9] [--device cuda]

CPU time on one thread (on a GPU wall clock), contestants alternating in one run, as ratios, under an allocator that keeps freed
memory. Memory is taken in fresh processes, under one that returns it.
Writes results/purifiers.json (purifiers_cuda.json), section by section: those not named stay as they were. PNG is a Cityscapes
frame, without one a random image of that size serves. Our own limits: 1.03 of the floor; a gradient through 50 guided steps 1.3
of the memory at 5 steps and 1.6 of the time of plain autograd; 2 GiB for the frame, the whole process counted.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import harness
import purifier_floors as floors
import robustrestore as rr
from robustrestore import diffusion, guidances, purifiers

LIMITS = {"overhead": 1.03, "memory": 1.3, "time": 1.6, "frame MiB": 2048}
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # FLOP/s of dense bfloat16 products, from the data sheets
SIZE = (1024, 2048)


def images(options: argparse.Namespace, count: int = 4, side: int = 64) -> Tensor:
    if options.device != "cpu":
        count, side = 8 * count, 4 * side
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)).to(options.device)


def against(run: Callable[[], object], floor: Callable[[], object], options: argparse.Namespace) -> dict[str, float]:
    """How many times the floor's time `run` takes: the two side by side, who is first alternating."""
    ratios = []
    for k in range(-1, options.rounds):  # one round to warm up
        order = (run, floor) if k % 2 else (floor, run)
        times = {one: harness.timed(one, options.device) for one in order}
        ratios.append(times[run] / times[floor])
    return harness.summary(ratios[1:])


@torch.no_grad()
def overhead(options: argparse.Namespace, prior: diffusion.Denoiser) -> dict[str, Any]:
    """Each purifier over its floor."""
    shown, rows = images(options), {}
    _, auxiliary = floors.networks(options.device)
    for name, pair in floors.pairs(prior.to(options.device), auxiliary).items():
        ratio = against(lambda pair=pair: pair.stage(shown), lambda pair=pair: pair.floor(shown), options)
        rows[name] = {"calls": pair.calls, "ratio to the floor": ratio}
        print(name, ratio, flush=True)
    return {"images": list(shown.shape), "rows": rows}


@torch.no_grad()
def peers(options: argparse.Namespace) -> dict[str, Any]:
    """Images a second over those of diffusers at equal steps, the same network: its pipeline, and a loop over its scheduler."""
    from diffusers import DDIMPipeline, DDIMScheduler

    shown, denoiser, grid = images(options), floors.unet().to(options.device), diffusion.TimestepGrid()
    network, scheduler = denoiser.network.unet, DDIMScheduler()
    pipeline = DDIMPipeline(network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    ours = purifiers.Diffusion(denoiser, grid.sigma(100), floors.STEPS, diffusion.DDIM(grid=grid))

    def loop() -> None:
        scheduler.set_timesteps(floors.STEPS)
        current = 2 * shown - 1
        for step in scheduler.timesteps:
            current = scheduler.step(network(current, step).sample, step, current).prev_sample

    def generate() -> None:
        pipeline(len(shown), num_inference_steps=floors.STEPS, output_type="np", generator=torch.Generator().manual_seed(0))

    found = {
        "diffusers: scheduler in a loop": against(loop, lambda: ours(shown), options),
        "diffusers: DDIMPipeline": against(generate, lambda: ours(shown), options),
    }
    return {"images": list(shown.shape), "steps": floors.STEPS, "images/s over theirs": found}


WAYS: dict[str, list[Callable[[diffusion.Denoiser], diffusion.Denoiser]]] = {
    "ChannelsLast": [diffusion.ChannelsLast],
    "BFloat16": [diffusion.BFloat16],
    "ChannelsLast, BFloat16": [diffusion.ChannelsLast, diffusion.BFloat16],
    "ChannelsLast, Compiled (the default)": [diffusion.ChannelsLast, diffusion.Compiled],
    "ChannelsLast, BFloat16, Compiled": [diffusion.ChannelsLast, diffusion.BFloat16, diffusion.Compiled],
}
ON_GPU = {
    "Float16": [diffusion.Float16],
    "Graphed": [diffusion.Graphed],
    "ChannelsLast, BFloat16, Compiled, Graphed": [*WAYS["ChannelsLast, BFloat16, Compiled"], diffusion.Graphed],
}


@torch.no_grad()
def ways(denoiser: diffusion.Denoiser, options: argparse.Namespace) -> dict[str, Any]:
    """Optimised purifiers over the plain one, and by how much their images differ."""
    shown, rows = images(options), {}
    plain = purifiers.Diffusion(denoiser, steps=3).to(options.device)
    for name, chosen in (WAYS | (ON_GPU if options.device != "cpu" else {})).items():
        fast = rr.optimise(plain, chosen)
        row: dict[str, Any] = {"largest difference": rr.largest_difference(plain, fast, shown)}
        row["ratio to plain"] = against(lambda fast=fast: fast(shown), lambda: plain(shown), options)
        row["share of peak FLOP/s"] = share(fast, plain, shown, options.device)
        rows[name] = row
        print(name, row, flush=True)
    return {"images": list(shown.shape), "rows": rows}


def share(fast: rr.Stage, plain: rr.Stage, shown: Tensor, device: str) -> float | None:
    """Of the chip's dense bfloat16 peak, where that is known."""
    from torch.utils.flop_counter import FlopCounterMode

    peak = next((flops for name, flops in PEAK.items() if device != "cpu" and name in torch.cuda.get_device_name()), None)
    if peak is None:
        return None
    with FlopCounterMode(display=False) as counter:
        plain(shown)
    seconds = statistics.median(harness.timed(lambda: fast(shown), device) for _ in range(9))
    return round(counter.get_total_flops() / seconds / peak, 4)


def guided(name: str, steps: int, checkpointed: bool = True) -> Callable[[Tensor], Tensor]:
    """The gradient through a guided chain; `name`: which denoiser, and by what it is guided."""
    prior, auxiliary = floors.networks("cpu")
    denoiser = prior if "prior" in name else floors.unet()
    guidance = guidances.AGDM(auxiliary) if "AGDM" in name else guidances.PixelGuidance()
    stage = purifiers.Diffusion(denoiser, 0.1, steps, diffusion.DDPM(), guidance=guidance, checkpointed=checkpointed)

    def gradient(shown: Tensor) -> Tensor:
        leaf = shown.clone().requires_grad_()
        (found,) = torch.autograd.grad(stage(leaf).square().sum(), leaf)
        return found

    return gradient


GUIDED = ("diffusers UNet2DModel, AGDM", "diffusers UNet2DModel, pixels", "bundled prior, AGDM", "bundled prior, pixels")


def gradients(options: argparse.Namespace) -> dict[str, Any]:
    """Time over plain autograd at 10 steps: at 50 few machines could hold that."""
    shown, rows = images(options, 2), {}
    for name in GUIDED:
        one, plain = guided(name, 10), guided(name, 10, checkpointed=False)
        rows[name] = against(lambda one=one: one(shown), lambda plain=plain: plain(shown), options)
        print(name, rows[name], flush=True)
    return {"images": list(shown.shape), "rows": rows}


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """MiB of a gradient at 5 and 50 steps, above the process; and of whole processes that purify the frame in tiles."""

    def held(name: str, kind: str) -> float:
        frame = [] if options.frame is None else ["--frame", str(options.frame)]
        return round(float(harness.fresh(__file__, "--peak", name, "--kind", kind, *frame)), 1)

    rows: dict[str, dict[str, float]] = {}
    for name in GUIDED:
        rows[name] = {kind: held(name, kind) for kind in ("plain 5", "5", "50")}
        print(name, rows[name], flush=True)
    return {"rows": rows, "frame": {kind: held("frame", kind) for kind in ("purified", "gradient")}}


def peak(name: str, kind: str) -> float:
    """MiB above the process, for one gradient of two images of 64 x 64."""
    run = guided(name, int(kind.split()[-1]), checkpointed="plain" not in kind)
    shown = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    guided(name, 3)(shown[:1])
    return harness.peak(lambda: run(shown))


@torch.no_grad()
def frame(options: argparse.Namespace) -> dict[str, Any]:
    """A frame of 1024 x 2048 in tiles of 256: time by pixels, and what tiles change."""
    stage = purifiers.Diffusion.default()
    tiles = stage.replace(tile=256, overlap=32)
    whole = _picture(options.frame)
    quarter, half = whole[..., : SIZE[0] // 2, : SIZE[1] // 2], whole[..., : SIZE[1] // 2]
    scaling = {
        name: {kind: round(value * 25 / count, 3) for kind, value in ratio.items()}
        for name, count, ratio in (  # of 15, 25 and 45 tiles
            ("a quarter", 15, against(lambda: tiles(quarter), lambda: tiles(half), options)),
            ("the whole", 45, against(lambda: tiles(whole), lambda: tiles(half), options)),
        )
    }
    apart = (tiles(whole) - stage(whole)).abs().amax(1)[0]
    return {
        "frame": "Cityscapes" if options.frame else "random",
        "tile": 256,
        "time of a tile over that in half a frame": scaling,
        "difference to untiled": {
            "in the middle of tiles": float(apart[_middles(256, 32, 112)].max()),
            "mean": float(apart.mean()),
            "largest": float(apart.max()),
        },
    }


def _middles(tile: int, overlap: int, margin: int) -> Tensor:
    """Pixels of the frame that one tile alone covers, `margin` away from its edges: more than the network sees."""
    covered, middle = torch.zeros(SIZE), torch.zeros(SIZE, dtype=torch.bool)
    rows, columns = ([*range(0, side - tile, tile - overlap), side - tile] for side in SIZE)
    for top in rows:
        for left in columns:
            covered[top : top + tile, left : left + tile] += 1
            middle[top + margin : top + tile - margin, left + margin : left + tile - margin] = True
    return middle & (covered == 1)


def _picture(file: Path | None) -> Tensor:
    from robustrestore.data.image_file import load_image

    own = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, *SIZE, generator=own) if file is None else load_image(file)[None]


def frame_peak(file: Path | None, kind: str) -> float:
    """MiB that a process holds at its peak which purifies the frame, or takes the gradient too, and does nothing else."""
    stage = purifiers.Diffusion.default().replace(tile=256)
    with torch.set_grad_enabled(kind == "gradient"):
        shown = _picture(file).requires_grad_(kind == "gradient")
        out = stage(shown)
        if kind == "gradient":
            torch.autograd.grad(out.square().sum(), shown)
    return harness.resident("VmHWM")


SECTIONS = {
    "overhead": lambda options: overhead(options, rr.assets.prior()),
    "overhead UNet2DModel": lambda options: overhead(options, floors.unet()),
    "peers": peers,
    "optimised prior": lambda options: ways(rr.assets.prior(), options),
    "optimised UNet2DModel": lambda options: ways(floors.unet(), options),
    "gradients": gradients,
    "memory": memory,
    "frame": frame,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by comma")
    parser.add_argument("--frame", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        run = frame_peak if options.peak == "frame" else peak
        print(run(options.frame if options.peak == "frame" else options.peak, options.kind))
        return
    harness.keep_memory()
    name = "purifiers" if options.device == "cpu" else "purifiers_cuda"
    file = harness.RESULTS / f"{name}.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for section in options.only.split(","):
        about = {**harness.machine(options.device), "rounds": options.rounds}
        found[section] = {"about": about, **SECTIONS[section](options)}
        harness.write(name, found)


if __name__ == "__main__":
    main()
