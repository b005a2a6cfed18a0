"""What every benchmark records: versions, machine, seeds; and where results go."""

import json
import os
import platform
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
