"""Hugging Face diffusers: a `UNet2DModel` folder or hub id as a denoiser."""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..diffusion.discrete import DiscreteTime, Prediction
from ..weights import check_fit
from ._schedulers import load_scheduler


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

    Only safetensors are read, whole or in shards. A folder is never looked for on the hub: a path that does not exist or
    lacks a file raises FileNotFoundError, and so does an id that is neither on the hub (or the hub out of reach) nor a folder
    here. Raises ValueError for weights that do not fit their configuration, by name and size, for another network than
    `UNet2DModel`, and for schedules without betas (score SDEs, flows) or with such as contradict each other. The network
    comes frozen and in evaluation mode.
    """
    folder = Path(folder_or_id).expanduser()
    name = str(folder)
    looks_local = isinstance(folder_or_id, Path) or str(folder_or_id).startswith((".", "/", "~")) or name.count("/") != 1
    local = folder.is_dir()
    if not local and (looks_local or folder.exists()):
        raise FileNotFoundError(f"{name}: expected a folder written by diffusers' save_pretrained, or a hub id owner/name")
    if local:
        _check_files(folder)
    try:
        scheduler = load_scheduler(partial(_from, name=name, part="scheduler", local=local), name)
        unet = _network(partial(_from, name=name, part="unet", local=local), name)
    except OSError as error:
        if local:
            raise
        raise FileNotFoundError(
            f"{name}: expected a folder below {Path.cwd()} or a repository on the hub, found neither: {error}"
        ) from error
    return denoiser_from(unet, scheduler)


_WEIGHTS = "diffusion_pytorch_model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"
_ADVICE = ": a file is incomplete, or config.json belongs to another network"


def _check_files(folder: Path) -> None:
    """Raise FileNotFoundError unless there are two configurations and weights that can be read safely."""
    for part, wanted in (("unet", ("config.json",)), ("unet", (_WEIGHTS, _INDEX)), ("scheduler", ("scheduler_config.json",))):
        place = folder / part if (folder / part).is_dir() else folder
        if not any((place / file).is_file() for file in wanted):
            there = ", ".join(sorted(file.name for file in place.iterdir())[:6]) or "an empty folder"
            raise FileNotFoundError(
                f"{place}: expected {wanted[0]}, got {there}: write it anew with diffusers' save_pretrained; pickled weights "
                "are not read"
            )
        if part == "unet" and not (place / _WEIGHTS).is_file() and (place / _INDEX).is_file():
            _check_shards(place)


def _check_shards(place: Path) -> None:
    """Raise ValueError unless each shard holds what the index says, which diffusers takes on trust."""
    from safetensors import safe_open

    named: dict[str, str] = json.loads((place / _INDEX).read_text(encoding="utf-8"))["weight_map"]
    for file in sorted(set(named.values())):
        if not (place / file).is_file():
            raise FileNotFoundError(f"{place}: expected {file}, which its index names, got none: fetch it")
        with safe_open(place / file, "pt") as shard:
            held = dict.fromkeys(shard.keys(), ())
        check_fit(
            held, dict.fromkeys((n for n in named if named[n] == file), ()), f"{place / file}: expected what its index says"
        )


def _network(load: Callable[..., Any], name: str) -> nn.Module:
    """The network with all its weights, frozen."""
    from diffusers import UNet2DModel

    config = load(UNet2DModel.load_config)
    if not isinstance(config, dict) or config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        got = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{name}: expected the configuration of a UNet2DModel, got {got}: other networks are not read")
    log = logging.getLogger("diffusers.models.modeling_utils")
    before, log.disabled = log.disabled, True  # it warns of each layer that it leaves random: they are refused below, by name
    try:
        unet, told = load(
            UNet2DModel.from_pretrained,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected weights of its UNet2DModel: {' '.join(str(error).split())}") from error
    finally:
        log.disabled = before
    wanted = {key: tuple(weight.shape) for key, weight in unet.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {key: shape for key, shape in wanted.items() if key not in told["missing_keys"]}
    found |= dict.fromkeys(sorted(told["unexpected_keys"]), ()) | {key: tuple(got) for key, got, _ in told["mismatched_keys"]}
    check_fit(found, wanted, f"{name}: expected the weights of its UNet2DModel", _ADVICE)
    frozen: nn.Module = unet.requires_grad_(False).eval()
    return frozen


def _from(load: Callable[..., Any], name: str, part: str, local: bool, **options: Any) -> Any:
    """A part of a pipeline: from its own sub-folder, or, where a repository keeps all in one place, from there."""
    if local:
        inner = part if (Path(name) / part).is_dir() else None
        return load(name, subfolder=inner, local_files_only=True, **options)
    try:
        return load(name, subfolder=part, **options)
    except OSError:
        return load(name, **options)
