"""OpenAI's guided-diffusion and improved-diffusion checkpoints as denoisers, on diffusers' `UNet2DModel`."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..diffusion.discrete import DiscreteTime
from ..diffusion.schedule import cosine_alphas, linear_alphas
from ..weights import check_fit, read_tensors
from .diffusers import _Sample


@dataclass(frozen=True)
class Flags:
    """What a checkpoint does not tell: the flags of its published command, by their names there.

    As they stand they are those of the unconditional 256 x 256 ImageNet model (Dhariwal and Nichol, 2021), DiffPure's.
    `attention_resolutions` are sizes of the image, as in the command; `num_head_channels` None means `num_heads` everywhere.
    """

    image_size: int = 256
    num_channels: int = 256
    channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (32, 16, 8)
    num_heads: int = 4
    num_head_channels: int | None = 64
    learn_sigma: bool = True
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    use_new_attention_order: bool = False
    diffusion_steps: int = 1000
    noise_schedule: Literal["linear", "cosine"] = "linear"
    rescale_timesteps: bool = False
    predict_xstart: bool = False

    def __post_init__(self) -> None:
        if self.channel_mult[:1] != (1,):
            raise ValueError(
                f"channel_mult: expected a 1 first, got {self.channel_mult}: UNet2DModel embeds the time in the first width"
            )
        if self.noise_schedule not in ("linear", "cosine"):
            raise ValueError(f"noise_schedule: expected linear or cosine, got {self.noise_schedule!r}")
        if off := [w for w in self.widths if w % 32]:
            raise ValueError(f"num_channels: expected widths that divide by 32 (their group norm), got {off[0]}")
        if off := [w for w in self.attended if w % (self.num_head_channels or self.num_heads)]:
            raise ValueError(f"num_head_channels, num_heads: expected attention over {off[0]} channels to divide into heads")

    @property
    def widths(self) -> list[int]:
        """The channels of each level, finest first."""
        return [self.num_channels * factor for factor in self.channel_mult]

    def attends(self, level: int) -> bool:
        """Whether the blocks of a level are followed by attention."""
        return any(self.image_size // size == 2**level for size in self.attention_resolutions)

    @property
    def attended(self) -> list[int]:
        """The widths that attention works on; there is always one in the middle."""
        return [w for level, w in enumerate(self.widths) if self.attends(level)] + self.widths[-1:]

    def heads(self, width: int) -> int:
        """How many heads attention over `width` channels has."""
        return width // self.num_head_channels if self.num_head_channels else self.num_heads

    def alphas(self) -> list[float]:
        """The products of 1 - beta of its schedule: linear (stretched to the steps) or cosine (Nichol and Dhariwal, 2021)."""
        steps = self.diffusion_steps
        if self.noise_schedule == "linear":
            return linear_alphas(steps, 0.1 / steps, 20 / steps)
        return cosine_alphas(steps)


GUIDED_256 = Flags()
IMPROVED_CIFAR = Flags(
    image_size=32,
    num_channels=128,
    channel_mult=(1, 2, 2, 2),
    num_res_blocks=3,
    attention_resolutions=(16, 8),
    num_head_channels=None,
    resblock_updown=False,
    diffusion_steps=4000,
    noise_schedule="cosine",
    rescale_timesteps=True,
)


def load_denoiser(file: str | Path, flags: Flags = GUIDED_256) -> DiscreteTime:
    """A denoiser from a checkpoint of tensors (`256x256_diffusion_uncond.pt`), frozen and in evaluation mode.

    Raises ValueError for pickled code, a class-conditional model, and, by their names in the file, for tensors that are
    missing, unknown or of another shape than the flags say.
    """
    prediction: Literal["epsilon", "sample"] = "sample" if flags.predict_xstart else "epsilon"
    scale = 1000 / flags.diffusion_steps if flags.rescale_timesteps else 1.0
    network, multiple = _Sample(unet_from(read_tensors(file), flags, str(file))), 2 ** (len(flags.widths) - 1)
    return DiscreteTime(network, flags.alphas(), prediction, multiple, timestep_scale=scale).eval()


def unet_from(tensors: Mapping[str, Tensor], flags: Flags, source: str = "tensors") -> nn.Module:
    """The `UNet2DModel` with these tensors, named and ordered anew; the same outputs as the original.

    Where heads differ in width between levels diffusers' config cannot say so: a folder that it writes does not load again.
    """
    if "label_emb.weight" in tensors:
        raise ValueError(f"{source}: expected an unconditional model, got a class-conditional one (label_emb)")
    unet, blocks = _empty(flags), dict(_blocks(flags))
    origin = {name: _original(name, blocks) for name in unet.state_dict()}
    wanted = {origin[name]: _stored(name, tuple(weight.shape)) for name, weight in unet.state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    check_fit(found, wanted, f"{source}: expected the tensors of these flags", ": see what its command said")
    state = {name: _piece(name, tensors[old].float(), flags) for name, old in origin.items()}
    unet.load_state_dict(state, assign=True)
    frozen: nn.Module = unet.requires_grad_(False).eval()
    return frozen


def _empty(flags: Flags) -> Any:
    """The network of these flags without memory for its weights."""
    from diffusers import UNet2DModel

    levels, sizes = range(len(flags.widths)), {width // flags.heads(width) for width in flags.attended}
    resampling = "resnet" if flags.resblock_updown else "conv"
    with torch.device("meta"):
        unet = UNet2DModel(
            sample_size=flags.image_size,
            out_channels=6 if flags.learn_sigma else 3,
            block_out_channels=tuple(flags.widths),
            layers_per_block=flags.num_res_blocks,
            down_block_types=tuple(_kind(flags, level, "Down") for level in levels),
            up_block_types=tuple(_kind(flags, level, "Up") for level in reversed(levels)),
            downsample_type=resampling,
            upsample_type=resampling,
            attention_head_dim=math.gcd(*sizes),
            attn_norm_num_groups=32,  # else the norm in the middle is left out
            resnet_time_scale_shift="scale_shift" if flags.use_scale_shift_norm else "default",
        )
    for part in unet.modules():
        if hasattr(part, "to_q"):
            part.heads = flags.heads(part.to_q.in_features)
            part.scale = (part.to_q.in_features // part.heads) ** -0.5
    if len(sizes) > 1:  # one number cannot say it: better a saved folder that does not load than one that loads wrong
        unet.register_to_config(attention_head_dim=f"{flags.num_heads} heads of any width")
    return unet


def _kind(flags: Flags, level: int, way: str) -> str:
    if flags.attends(level):
        return f"Attn{way}Block2D"
    return f"Resnet{way}sampleBlock2D" if flags.resblock_updown else f"{way}Block2D"


def _blocks(flags: Flags) -> Iterator[tuple[str, str]]:
    """The name of each block, here and in the original, which numbers them through."""
    yield from (("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"))
    yield from (("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"))
    yield from (("mid_block.resnets.0", "middle_block.0"), ("mid_block.attentions.0", "middle_block.1"))
    yield ("mid_block.resnets.1", "middle_block.2")
    levels, layers = len(flags.widths), flags.num_res_blocks
    for level in range(levels):
        first = 1 + level * (layers + 1)
        for k in range(layers):
            yield (f"down_blocks.{level}.resnets.{k}", f"input_blocks.{first + k}.0")
            yield (f"down_blocks.{level}.attentions.{k}", f"input_blocks.{first + k}.1")
        yield (f"down_blocks.{level}.downsamplers.0", f"input_blocks.{first + layers}.0")
    for step, level in enumerate(reversed(range(levels))):
        for k in range(layers + 1):
            yield (f"up_blocks.{step}.resnets.{k}", f"output_blocks.{step * (layers + 1) + k}.0")
            yield (f"up_blocks.{step}.attentions.{k}", f"output_blocks.{step * (layers + 1) + k}.1")
        last = step * (layers + 1) + layers
        yield (f"up_blocks.{step}.upsamplers.0", f"output_blocks.{last}.{2 if flags.attends(level) else 1}")


_LAYERS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
    "group_norm": "norm",
    "to_q": "qkv",
    "to_k": "qkv",
    "to_v": "qkv",
    "to_out.0": "proj_out",
}


def _original(name: str, blocks: Mapping[str, str]) -> str:
    """What a weight of `UNet2DModel` is called in the original."""
    block = next(b for b in sorted(blocks, key=len, reverse=True) if name.startswith(f"{b}."))
    layer, _, leaf = name.removeprefix(f"{block}.").rpartition(".")
    if layer == "conv":
        layer = "op" if "downsamplers" in block else "conv"
    return ".".join(part for part in (blocks[block], _LAYERS.get(layer, layer), leaf) if part)


def _stored(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the original has for it: q, k and v in one, attention's matrices as convolutions of one pixel."""
    if ".attentions." not in name or "group_norm" in name:
        return shape
    rows = shape[0] if "to_out" in name else 3 * shape[0]
    return (rows, *shape[1:], *([1] if name.endswith("weight") else []))


def _piece(name: str, stored: Tensor, flags: Flags) -> Tensor:
    """The weight in our order. The original keeps q, k and v of one head together, then those of the next."""
    if ".attentions." not in name or "group_norm" in name:
        return stored
    matrix = stored.squeeze(-1) if name.endswith("weight") else stored
    if "to_out" in name:
        return matrix
    which, width = "qkv".index(name.split(".to_")[1][0]), len(matrix) // 3
    heads = 1 if flags.use_new_attention_order else flags.heads(width)
    by_head = matrix.reshape(heads, 3, width // heads, *matrix.shape[1:])
    return by_head[:, which].flatten(0, 1).contiguous()
