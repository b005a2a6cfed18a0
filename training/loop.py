"""One resumable training loop for the scripts in this folder: AdamW, warm-up and cosine, averaged weights."""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Loss = Callable[[nn.Module, torch.Generator, float], Tensor]


def arguments(description: str, steps: int, batch: int, lr: float) -> argparse.ArgumentParser:
    """The options that every training script shares."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log and weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's own choice")
    return parser


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The option that `autocast` reads."""
    parser.add_argument(
        "--precision",
        choices=("no", "bf16"),
        default="bf16",
        help="bf16 is for processors that compute in it (AVX-512 BF16, AMX); elsewhere it is emulated, and slower",
    )


def autocast(options: argparse.Namespace) -> torch.autocast:
    """The precision that was asked for, as a context."""
    return torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=options.precision == "bf16")


def _write(path: Path, write: Callable[[Path], None]) -> None:
    part = path.with_suffix(path.suffix + ".part")
    write(part)
    os.replace(part, path)


def half_weights(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with kernels in float16 (half the file) and everything of one dimension as it is."""
    return {
        name: tensor.half().contiguous() if tensor.dim() > 1 else tensor.contiguous()
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def _averaged(average: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
    """A running average over some 500 steps, over fewer at the start, so that the first weights are forgotten."""
    n = int(updates)
    torch._foreach_lerp_(average, current, 1 - min(0.998, (1 + n) / (10 + n)))


@torch.no_grad()
def _update_buffers(average: AveragedModel, module: nn.Module) -> None:
    for mine, theirs in zip(average.module.buffers(), module.buffers(), strict=True):
        mine.copy_(theirs) if not mine.is_floating_point() else mine.lerp_(theirs, 0.01)


def fit(module: nn.Module, loss: Loss, options: argparse.Namespace, validate: Callable[[nn.Module], dict[str, float]]):
    """Train `module` in place and write `weights.safetensors` of its running average.

    `loss(module, generator, progress)` draws its own batch from a generator that is seeded by (seed, step), so a run
    that was killed and started again sees the very batches it would have seen; progress runs from 0 to 1.
    """
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    module.to(options.device).train()
    average = AveragedModel(module, multi_avg_fn=_averaged)
    optimiser = torch.optim.AdamW(module.parameters(), lr=options.lr, weight_decay=1e-4, betas=(0.9, 0.99))
    warmup = max(1, options.steps // 40)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda s: min(1.0, (s + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, s / options.steps)))),
    )
    parts = {"module": module, "average": average, "optimiser": optimiser, "schedule": schedule}
    step, checkpoint = 0, out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=options.device, weights_only=True)
        step = state.pop("step")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    started, running, every = time.time(), [], max(1, min(500, options.steps // 20))
    while step < options.steps:
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        value = loss(module, generator, step / options.steps)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(module)
        _update_buffers(average, module)
        running.append(value.detach())
        step += 1
        if step % every == 0 or step == options.steps:
            average.eval()
            line = {"step": step, "loss": float(torch.stack(running).mean()), **validate(average.module)}
            line["seconds"] = round(time.time() - started)
            running.clear()
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            state = {"step": step, **{name: part.state_dict() for name, part in parts.items()}}
            _write(checkpoint, lambda path, state=state: torch.save(state, path))
            _write(out / "weights.safetensors", lambda path: save_file(half_weights(average.module), path))
            average.train()
