"""What every benchmark records: versions, machine, seeds; how time and memory are taken; and where results go."""

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from robustrestore.files import write_text

RESULTS = Path(__file__).parent / "results"


def version(name: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def machine(device: str = "cpu") -> dict[str, Any]:
    """Enough to judge a figure by."""
    names = ("robustrestore", "torch", "numpy", "scikit-image", "torchmetrics", "diffusers", "segmentation-models-pytorch")
    return {
        "versions": {name: found for name in names if (found := version(name))},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu, {os.cpu_count()} cores",
    }


def write(name: str, content: dict[str, Any]) -> None:
    """results/NAME.json beside this file."""
    write_text(RESULTS / f"{name}.json", json.dumps(content, indent=2) + "\n")


def timed(run: Callable[[], object], device: str = "cpu") -> float:
    """Seconds: of the processor, or of the wall clock where a GPU does the work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - begin
    begin = time.process_time()
    run()
    return time.process_time() - begin


def summary(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": round(statistics.median(values), 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
    }


def peak(run: Callable[[], object]) -> float:
    """MiB of resident memory that `run` adds at its peak to what the process holds before it (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(what: str) -> float:
    """MiB that this process holds (VmRSS), or has held at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(what))) / 1024


def keep_memory() -> None:
    """Starts the script once more, with an allocator that keeps freed memory: glibc's returns it at will, which costs time."""
    limit = str(2**33)
    wanted = {"MALLOC_MMAP_THRESHOLD_": limit, "MALLOC_TRIM_THRESHOLD_": limit}
    if sys.platform.startswith("linux") and any(name not in os.environ for name in wanted):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def fresh(file: str, *arguments: str) -> str:
    """What a script prints in a process of its own, which gives freed memory back: glibc keeps small blocks otherwise."""
    own = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, file, *arguments], check=True, capture_output=True, text=True, env=own)
    return done.stdout
