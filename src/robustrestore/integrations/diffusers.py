"""Hugging Face diffusers: a `UNet2DModel` folder or hub id as a denoiser."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..diffusion.discrete import DiscreteTime, Prediction


class _Sample(nn.Module):
    """A diffusers network as `network(z, timestep) -> tensor`; the timestep stays a tensor, a float would be cut."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, z: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.unet(z, timestep).sample
        return out


def denoiser_from(unet: nn.Module, scheduler: Any) -> DiscreteTime:
    """A loaded diffusers `UNet2DModel` and any of its schedulers as a denoiser.

    The scheduler gives the noise schedule and what the network predicts; nothing is assumed. Raises ValueError for
    networks without timesteps or predictions that are not epsilon, v_prediction or sample.
    """
    prediction = str(scheduler.config.get("prediction_type", "epsilon"))
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"{type(scheduler).__name__}: expected a scheduler with alphas_cumprod (DDPM, DDIM, DPM-Solver)")
    blocks = cast(Any, unet).config.get("block_out_channels", (1,))
    alphas = [float(a) for a in scheduler.alphas_cumprod.double()]
    return DiscreteTime(_Sample(unet), alphas, cast(Prediction, prediction), multiple=2 ** (len(blocks) - 1)).eval()


def load_denoiser(folder_or_id: str | Path) -> DiscreteTime:
    """A denoiser from a diffusers pipeline: a local folder (with `unet/` and `scheduler/`, or both flat) or a hub id.

    Only safetensors are read. A folder is never looked for on the hub: a path that does not exist raises
    FileNotFoundError. The network comes frozen and in evaluation mode.
    """
    from diffusers import DDPMScheduler, UNet2DModel

    folder = Path(folder_or_id).expanduser()
    name = str(folder)
    looks_local = isinstance(folder_or_id, Path) or str(folder_or_id).startswith((".", "/", "~")) or name.count("/") != 1
    if not folder.is_dir() and looks_local:
        raise FileNotFoundError(f"{name}: expected a folder written by diffusers' save_pretrained, or a hub id owner/name")
    local = folder.is_dir()
    unet = _from(UNet2DModel, name, "unet", local, use_safetensors=True, low_cpu_mem_usage=False)
    scheduler = _from(DDPMScheduler, name, "scheduler", local)
    unet.requires_grad_(False).eval()
    return denoiser_from(unet, scheduler)


def _from(cls: Any, name: str, part: str, local: bool, **options: Any) -> Any:
    """A part of a pipeline: from its own sub-folder, or, where a repository keeps all in one place, from there."""
    if local:
        inner = part if (Path(name) / part).is_dir() else None
        return cls.from_pretrained(name, subfolder=inner, local_files_only=True, **options)
    try:
        return cls.from_pretrained(name, subfolder=part, **options)
    except OSError:
        return cls.from_pretrained(name, **options)
