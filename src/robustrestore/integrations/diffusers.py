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

    The scheduler gives the noise schedule and what the network predicts; nothing is assumed. Of a network with a learned
    variance the first half of the channels counts. Raises ValueError for networks without timesteps, with class labels or
    with other channels out, for a schedule that ends without any signal, and for predictions that are not epsilon,
    v_prediction or sample.
    """
    prediction = str(scheduler.config.get("prediction_type", "epsilon"))
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"{type(scheduler).__name__}: expected a scheduler with alphas_cumprod (DDPM, DDIM, DPM-Solver)")
    alphas = [float(a) for a in scheduler.alphas_cumprod.double()]
    if alphas[-1] <= 0 < min(alphas[:-1], default=0):
        raise ValueError(
            f"{type(scheduler).__name__}: expected alphas_cumprod above 0, got 0 at the last timestep (zero terminal SNR): no "
            "sigma belongs to it. Leave it out, scheduler.alphas_cumprod = scheduler.alphas_cumprod[:-1], and call "
            "denoiser_from(unet, scheduler)"
        )
    config = cast(Any, unet).config
    _check_network(config, type(unet).__name__)
    blocks = config.get("block_out_channels", (1,))
    return DiscreteTime(_Sample(unet), alphas, cast(Prediction, prediction), multiple=2 ** (len(blocks) - 1)).eval()


def _check_network(config: Any, name: str) -> None:
    """Raise ValueError unless it maps images, and nothing beside them, to images or to images and variances."""
    if config.get("num_class_embeds") is not None or config.get("class_embed_type") is not None:
        raise ValueError(f"{name}: expected an unconditional network, got one that wants class labels")
    images, out = config.get("in_channels"), config.get("out_channels")
    if images is not None and out is not None and out not in (images, 2 * images):
        raise ValueError(f"{name}: expected {images} channels out, or {2 * images} with variances, got {out}")


def load_denoiser(folder_or_id: str | Path) -> DiscreteTime:
    """A denoiser from a diffusers pipeline: a local folder (with `unet/` and `scheduler/`, or both flat) or a hub id.

    Only safetensors are read. A folder is never looked for on the hub: a path that does not exist raises
    FileNotFoundError, and so does an id that is neither on the hub (or the hub out of reach) nor a folder here. Raises
    ValueError for schedulers without betas (score SDEs, flows). The network comes frozen and in evaluation mode.
    """
    from diffusers import DDPMScheduler, UNet2DModel

    folder = Path(folder_or_id).expanduser()
    name = str(folder)
    looks_local = isinstance(folder_or_id, Path) or str(folder_or_id).startswith((".", "/", "~")) or name.count("/") != 1
    local = folder.is_dir()
    if not local and (looks_local or folder.exists()):
        raise FileNotFoundError(f"{name}: expected a folder written by diffusers' save_pretrained, or a hub id owner/name")
    try:
        unet = _from(UNet2DModel, name, "unet", local, use_safetensors=True, low_cpu_mem_usage=False)
        scheduler = _from(_Betas(DDPMScheduler), name, "scheduler", local)
    except OSError as error:
        if local:
            raise
        raise FileNotFoundError(
            f"{name}: expected a folder below {Path.cwd()} or a repository on the hub, found neither: {error}"
        ) from error
    unet.requires_grad_(False).eval()
    return denoiser_from(unet, scheduler)


class _Betas:
    """Loads any scheduler's configuration as that class, unless it names no betas: diffusers would take its defaults."""

    def __init__(self, cls: Any) -> None:
        self.cls = cls

    def from_pretrained(self, name: str, **options: Any) -> Any:
        config = self.cls.load_config(name, **options)
        if missing := {"num_train_timesteps", "beta_schedule"} - set(config):
            raise ValueError(
                f"{name}: expected the configuration of a scheduler with betas (DDPM, DDIM, DPM-Solver), got "
                f"{config.get('_class_name')} without {', '.join(sorted(missing))}"
            )
        return self.cls.from_config(config)


def _from(cls: Any, name: str, part: str, local: bool, **options: Any) -> Any:
    """A part of a pipeline: from its own sub-folder, or, where a repository keeps all in one place, from there."""
    if local:
        inner = part if (Path(name) / part).is_dir() else None
        return cls.from_pretrained(name, subfolder=inner, local_files_only=True, **options)
    try:
        return cls.from_pretrained(name, subfolder=part, **options)
    except OSError:
        return cls.from_pretrained(name, **options)
