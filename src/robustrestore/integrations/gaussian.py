"""Plain Gaussian denoisers (DnCNN, FFDNet, DRUNet and their like) as denoisers of ours: priors for one step.

deepinv's convention, `denoiser(noisy, sigma) -> clean` on [0, 1] images, needs no adapter but `diffusion.NoiseConditioned`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion import Denoiser
from ..diffusion.denoiser import answer, checked_multiple
from ..images import per_image
from ..weights import read_tensors


class Blind(Denoiser, name="blind"):
    """A network `network(noisy) -> noise` that is told no level, as DnCNN (Zhang et al., 2017), on [0, 1] images.

    The estimate is the image less the noise; where sigma is 0 the image itself. It is good at the levels that the network
    was trained on and takes out that much at every other one, so ask it for one step at such a level.
    """

    def __init__(self, network: nn.Module, multiple: int = 1) -> None:
        super().__init__()
        self.network, self.multiple = network, checked_multiple(multiple)

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Less the noise found."""
        noise = answer(self.network(noisy), self.network, noisy)
        return noisy - per_image((sigma > 0).to(noisy), noisy) * noise


class SigmaMap(Denoiser, name="sigma_map"):
    """A network of [0, 1] images that takes the level as a picture: FFDNet (Zhang et al., 2018), DRUNet (Zhang et al., 2021).

    `place` "argument": called as `network(noisy, sigma [N, 1, 1, 1])`; "channel": as `network(noisy with one channel of
    sigma more)`. It returns the clean image. Trained levels: FFDNet 0 to 75/255, DRUNet 0 to 50/255.
    """

    def __init__(self, network: nn.Module, place: Literal["argument", "channel"] = "argument", multiple: int = 1) -> None:
        super().__init__()
        if place not in ("argument", "channel"):
            raise ValueError(f"place: expected argument or channel, got {place!r}")
        self.network, self.place, self.multiple = network, place, checked_multiple(multiple)

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The network's image."""
        level = per_image(sigma, noisy)
        if self.place == "argument":
            out = self.network(noisy, level)
        else:
            out = self.network(torch.cat([noisy, level.expand(-1, 1, *noisy.shape[2:])], dim=1))
        return answer(out, self.network, noisy)


class FFDNet(nn.Module):
    """Convolutions at half resolution, a map of sigma beside the image: the arithmetic of Zhang et al. (2018)."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The clean image [N, C, H, W], H and W even; `sigma` [N, 1, 1, 1]."""
        small = F.pixel_unshuffle(noisy, 2)
        clean: Tensor = self.layers(torch.cat([small, sigma.expand(-1, 1, *small.shape[2:])], dim=1))
        return F.pixel_shuffle(clean, 2)


def load_dncnn(file: str | Path) -> Blind:
    """A DnCNN of tensors alone (`model.0.weight`, ...), any depth and width, with or without batch norm; returns the noise.

    Raises ValueError for pickled code, and, naming the layer, for what is no chain of 3x3 convolutions of one width from
    images to images, a ReLU between any two: a layer or bias that is missing, an extra one, numbers that skip.
    """
    layers, first, last = _chain(file)
    if first != last:
        raise ValueError(f"{file}: expected a DnCNN with as many channels out as in, got {first} and {last}")
    return Blind(layers).eval()


def load_ffdnet(file: str | Path) -> SigmaMap:
    """An FFDNet of tensors alone, grey or colour; errors as for `load_dncnn`."""
    layers, first, last = _chain(file)
    if first != last + 1 or last % 4:
        raise ValueError(
            f"{file}: expected an FFDNet, 4 C + 1 channels in and 4 C out (13 and 12, or 5 and 4), got {first} and {last}"
        )
    return SigmaMap(FFDNet(layers), multiple=2).eval()


def _chain(file: str | Path) -> tuple[nn.Sequential, int, int]:
    """The layers of a file, frozen, a ReLU wherever a number has no weights; channels in and out."""
    numbered, prefix = _numbered(file)
    _check_row(numbered, f"{file}: ", prefix)
    layers, places = nn.Sequential(), sorted(numbered)
    first = width = channels = 0
    for k in range(places[-1] + 1):
        out = width if 0 < k < places[-1] else 0
        layers.append(_layer(numbered[k], f"{file}: {k}.weight", channels, out) if k in numbered else nn.ReLU())
        if isinstance(made := layers[-1], nn.Conv2d):
            first, width, channels = first or made.in_channels, width or made.out_channels, made.out_channels
    return layers.requires_grad_(False).eval(), first, channels


def _numbered(file: str | Path) -> tuple[dict[int, dict[str, Tensor]], str]:
    """The tensors of each numbered layer, and what stands before all numbers."""
    numbered: dict[int, dict[str, Tensor]] = {}
    prefix: str | None = None
    for name, tensor in read_tensors(file).items():
        found = re.fullmatch(r"((?:[A-Za-z_]\w*\.)*)(0|[1-9]\d*)\.(\w+)", name)
        if not found or found[1] != (prefix := found[1] if prefix is None else prefix):
            raise ValueError(f"{file}: expected numbered layers in a row (model.0.weight, model.2.weight, ...), got {name}")
        numbered.setdefault(int(found[2]), {})[found[3]] = tensor
    return numbered, prefix or ""


def _check_row(numbered: Mapping[int, Mapping[str, Tensor]], file: str, prefix: str) -> None:
    """Raise ValueError unless it is convolution, batch norm or none, ReLU (a number left out), ..., convolution."""
    before, places = -2, sorted(numbered)
    norms = [k for k in places if numbered[k].get("weight", torch.empty(0, 0)).dim() == 1]
    for k in places:
        behind = before >= 0 and before not in norms  # a convolution, which a batch norm may follow
        if k != before + (1 if k in norms else 2) or (k in norms and not behind):
            wanted = f"{prefix}{before + 2}" + (f" (or a batch norm, {prefix}{before + 1})" if behind else "")
            raise ValueError(f"{file}expected layer {wanted} next, got {prefix}{k}: a layer is missing, or is one too many")
        before = k
    if not places or before in norms:
        raise ValueError(f"{file}expected a convolution last")
    middle = [k for k in places[1:-1] if k not in norms]
    bare = [k for k in middle if "bias" not in numbered[k]]
    if 0 < len(bare) < len(middle):
        raise ValueError(
            f"{file}expected a bias in all layers between the first and the last or in none, missing {prefix}{bare[0]}.bias"
        )


def _layer(tensors: dict[str, Tensor], where: str, channels: int, out: int) -> nn.Module:
    """A convolution or a batch norm that holds these tensors; `channels` come in and `out` go out, 0 for any."""
    weight = tensors.get("weight", torch.empty(0))
    made: nn.Module | None = None
    if weight.dim() == 4 and weight.shape == (out or len(weight), channels or weight.shape[1], 3, 3):
        made = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias="bias" in tensors)
    elif weight.dim() == 1 and weight.shape == (channels,):
        made = nn.BatchNorm2d(channels)
    if made is None:
        wanted = f"[{out or '*'}, {channels or '*'}, 3, 3] (or a batch norm)"
        got = list(weight.shape) if "weight" in tensors else f"none, but {', '.join(sorted(tensors))}"
        raise ValueError(f"{where}: expected a convolution {wanted}, got {got}")
    try:
        made.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error
    return made
