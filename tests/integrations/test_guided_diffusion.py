"""OpenAI's checkpoints: equal to an independent version of the published arithmetic, and refused where they do not fit."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toys import photos

from robustrestore.integrations.guided_diffusion import GUIDED_256, IMPROVED_CIFAR, Flags, load_denoiser, unet_from

diffusers = pytest.importorskip("diffusers")

GUIDED = Flags(
    image_size=16, num_channels=32, channel_mult=(1, 2, 2), num_res_blocks=1, attention_resolutions=(8,), num_head_channels=16
)
CASES = {
    "guided": GUIDED,
    "improved": dataclasses.replace(
        IMPROVED_CIFAR, image_size=16, num_channels=32, channel_mult=(1, 2, 2), num_res_blocks=2, attention_resolutions=(8, 4)
    ),
    "new order": dataclasses.replace(GUIDED, use_new_attention_order=True, learn_sigma=False, predict_xstart=True),
    "heads of other widths": dataclasses.replace(
        GUIDED, channel_mult=(1, 2, 3), num_head_channels=None, use_scale_shift_norm=False, resblock_updown=False
    ),
}
CASES["heads of other widths"] = dataclasses.replace(CASES["heads of other widths"], attention_resolutions=(8, 4))


class Original:
    """The published network written down as arithmetic over named tensors; a tensor is drawn when first asked for."""

    def __init__(self, flags: Flags, device: str = "cpu") -> None:
        self.flags, self.device, self.tensors = flags, device, {}
        self.own = torch.Generator().manual_seed(11)

    def get(self, name: str, *shape: int, around: float = 0.0) -> Tensor:
        if name not in self.tensors:
            spread = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.2
            drawn = torch.empty(shape, device="meta") if self.device == "meta" else torch.randn(shape, generator=self.own)
            self.tensors[name] = around + spread * drawn
        return self.tensors[name]

    def norm(self, name: str, x: Tensor) -> Tensor:
        c = x.shape[1]
        return F.group_norm(x, 32, self.get(f"{name}.weight", c, around=1.0), self.get(f"{name}.bias", c), 1e-5)

    def conv(self, name: str, x: Tensor, out: int, size: int = 3, stride: int = 1) -> Tensor:
        weight = self.get(f"{name}.weight", out, x.shape[1], size, size)
        return F.conv2d(x, weight, self.get(f"{name}.bias", out), stride=stride, padding=size // 2)

    def linear(self, name: str, x: Tensor, out: int) -> Tensor:
        return F.linear(x, self.get(f"{name}.weight", out, x.shape[1]), self.get(f"{name}.bias", out))

    def block(self, name: str, x: Tensor, emb: Tensor, out: int, resample: str = "") -> Tensor:
        h = _resampled(F.silu(self.norm(f"{name}.in_layers.0", x)), resample)
        x = _resampled(x, resample)
        h = self.conv(f"{name}.in_layers.2", h, out)
        stretched = self.flags.use_scale_shift_norm
        e = self.linear(f"{name}.emb_layers.1", F.silu(emb), 2 * out if stretched else out)[:, :, None, None]
        if stretched:
            h = self.norm(f"{name}.out_layers.0", h) * (1 + e[:, :out]) + e[:, out:]
        else:
            h = self.norm(f"{name}.out_layers.0", h + e)
        h = self.conv(f"{name}.out_layers.3", F.silu(h), out)
        return h + (x if x.shape[1] == out else self.conv(f"{name}.skip_connection", x, out, 1))

    def attention(self, name: str, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        heads = c // self.flags.num_head_channels if self.flags.num_head_channels else self.flags.num_heads
        flat = self.norm(f"{name}.norm", x).reshape(n, c, -1)
        qkv = F.conv1d(flat, self.get(f"{name}.qkv.weight", 3 * c, c, 1), self.get(f"{name}.qkv.bias", 3 * c))
        if self.flags.use_new_attention_order:
            q, k, v = qkv.reshape(n, 3, heads, c // heads, -1).unbind(1)
        else:
            q, k, v = qkv.reshape(n, heads, 3, c // heads, -1).unbind(2)
        share = torch.softmax(torch.einsum("nhcs,nhct->nhst", q, k) / math.sqrt(c // heads), dim=-1)
        mixed = torch.einsum("nhst,nhct->nhcs", share, v).reshape(n, c, -1)
        out = F.conv1d(mixed, self.get(f"{name}.proj_out.weight", c, c, 1), self.get(f"{name}.proj_out.bias", c))
        return x + out.reshape(n, c, height, width)

    def __call__(self, z: Tensor, label: Tensor) -> Tensor:
        f = self.flags
        width, last = f.num_channels, len(f.channel_mult) - 1
        rates = torch.exp(-math.log(10000) * torch.arange(width // 2, device=z.device) / (width // 2))
        angles = label[:, None] * rates
        emb = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=1), 4 * width)
        emb = self.linear("time_embed.2", F.silu(emb), 4 * width)
        h, k, size = self.conv("input_blocks.0.0", z, width), 1, f.image_size
        kept = [h]
        for level, factor in enumerate(f.channel_mult):
            for _ in range(f.num_res_blocks):
                h = self.block(f"input_blocks.{k}.0", h, emb, factor * width)
                if size in f.attention_resolutions:
                    h = self.attention(f"input_blocks.{k}.1", h)
                kept.append(h)
                k += 1
            if level < last:
                name = f"input_blocks.{k}.0"
                if f.resblock_updown:
                    h = self.block(name, h, emb, h.shape[1], "down")
                else:
                    h = self.conv(f"{name}.op", h, h.shape[1], stride=2)
                kept.append(h)
                k, size = k + 1, size // 2
        h = self.block("middle_block.0", h, emb, h.shape[1])
        h = self.block("middle_block.2", self.attention("middle_block.1", h), emb, h.shape[1])
        k = 0
        for level in range(last, -1, -1):
            for i in range(f.num_res_blocks + 1):
                place = 1
                h = self.block(f"output_blocks.{k}.0", torch.cat([h, kept.pop()], dim=1), emb, f.channel_mult[level] * width)
                if size in f.attention_resolutions:
                    h, place = self.attention(f"output_blocks.{k}.1", h), 2
                if level and i == f.num_res_blocks:
                    name, size = f"output_blocks.{k}.{place}", 2 * size
                    if f.resblock_updown:
                        h = self.block(name, h, emb, h.shape[1], "up")
                    else:
                        h = self.conv(f"{name}.conv", _resampled(h, "up"), h.shape[1])
                k += 1
        return self.conv("out.2", F.silu(self.norm("out.0", h)), 6 if f.learn_sigma else 3)


def _resampled(x: Tensor, way: str) -> Tensor:
    if way == "up":
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return F.avg_pool2d(x, 2) if way == "down" else x


def _saved(flags: Flags, file: Path) -> tuple[Original, Tensor, Tensor]:
    original = Original(flags)
    z = 2 * photos(2, 16, 24) - 1
    label = torch.tensor([3.0, 412.5])
    with torch.no_grad():
        out = original(z, label)
    torch.save(original.tensors, file)
    return original, z, out


@pytest.mark.parametrize("name", CASES)
def test_a_converted_network_equals_the_original(tmp_path: Path, name: str) -> None:
    flags, file = CASES[name], tmp_path / "model.pt"
    _, z, wanted = _saved(flags, file)
    denoiser = load_denoiser(file, flags)
    with torch.no_grad():
        found = denoiser.network(z, torch.tensor([3.0, 412.5]))
    assert wanted.std() > 0.3
    assert (found - wanted).abs().max() < 1e-5
    assert not any(weight.requires_grad for weight in denoiser.parameters())
    assert not any(part.training for part in denoiser.modules())
    assert denoiser.multiple == 4


@pytest.mark.parametrize("name", CASES)
def test_the_wrong_order_of_queries_keys_and_values_is_far_off(tmp_path: Path, name: str) -> None:
    flags, file = CASES[name], tmp_path / "model.pt"
    _, z, wanted = _saved(flags, file)
    other = dataclasses.replace(flags, use_new_attention_order=not flags.use_new_attention_order)
    with torch.no_grad():
        found = load_denoiser(file, other).network(z, torch.tensor([3.0, 412.5]))
    assert (found - wanted).norm() / wanted.norm() > 0.01


@pytest.mark.parametrize("name", ["guided", "improved", "new order"])
def test_the_denoiser_solves_for_the_image_and_tells_the_originals_label(tmp_path: Path, name: str) -> None:
    flags, file = CASES[name], tmp_path / "model.pt"
    original, _, _ = _saved(flags, file)
    denoiser, told = load_denoiser(file, flags), []
    denoiser.network.register_forward_pre_hook(lambda module, args: told.append(args[1]))
    t, clean = flags.diffusion_steps // 8, photos(2, 16, 24)
    sigma = denoiser.sigma(t)
    y = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    a = torch.tensor(flags.alphas()[t], dtype=torch.float64)
    label = t * 1000 / flags.diffusion_steps
    with torch.no_grad():
        z = (a.sqrt() * (2 * y.double() - 1)).float()
        out = original(z, torch.full((2,), float(label)))[:, :3].double()
        z0 = out if flags.predict_xstart else (z - (1 - a).sqrt() * out) / a.sqrt()
        found = denoiser(y, sigma)
    torch.testing.assert_close(told[0], torch.full((2,), float(label)), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.double(), (z0 + 1) / 2, atol=5e-5, rtol=0)


def test_schedules_are_the_published_ones() -> None:
    for flags, scheduler in (
        (GUIDED_256, diffusers.DDPMScheduler()),
        (dataclasses.replace(GUIDED_256, diffusion_steps=4000), diffusers.DDPMScheduler(4000, 2.5e-5, 5e-3)),
        (IMPROVED_CIFAR, diffusers.DDPMScheduler(4000, beta_schedule="squaredcos_cap_v2")),
    ):
        ours, theirs = torch.tensor(flags.alphas(), dtype=torch.float64), scheduler.alphas_cumprod.double()
        assert (ours.log() - theirs.log()).abs().max() < 1e-3
        before = torch.cat([torch.ones(1).double(), ours[:-1]])
        assert (1 - ours / before - scheduler.betas.double()).abs().max() < 1e-6


@pytest.mark.parametrize("flags", [GUIDED_256, IMPROVED_CIFAR], ids=["256", "cifar"])
def test_the_published_sizes_have_the_originals_names_and_shapes(flags: Flags) -> None:
    original = Original(flags, "meta")
    original(torch.empty(1, 3, flags.image_size, flags.image_size, device="meta"), torch.empty(1, device="meta"))
    unet = unet_from(original.tensors, flags)  # compares all names and shapes
    count = sum(weight.numel() for weight in unet.parameters())
    assert count == sum(tensor.numel() for tensor in original.tensors.values())
    if flags is GUIDED_256:
        assert round(count / 1e6, 1) == 552.8
        assert unet.config.attention_head_dim == 64
    else:
        assert {part.heads for part in unet.modules() if hasattr(part, "to_q")} == {4}


def test_half_precision_files_become_single_precision(tmp_path: Path) -> None:
    original, _, _ = _saved(GUIDED, tmp_path / "full.pt")
    torch.save({name: tensor.half() for name, tensor in original.tensors.items()}, tmp_path / "half.pt")
    denoiser = load_denoiser(tmp_path / "half.pt", GUIDED)
    assert {weight.dtype for weight in denoiser.parameters()} == {torch.float32}


def test_diffusers_folders_of_a_converted_network_load_or_refuse(tmp_path: Path) -> None:
    for name, loads in (("guided", True), ("heads of other widths", False)):
        original, z, wanted = _saved(CASES[name], tmp_path / "model.pt")
        unet_from(original.tensors, CASES[name]).save_pretrained(tmp_path / name)
        if not loads:
            with pytest.raises(TypeError):
                diffusers.UNet2DModel.from_pretrained(tmp_path / name, low_cpu_mem_usage=False)
            continue
        again = diffusers.UNet2DModel.from_pretrained(tmp_path / name, low_cpu_mem_usage=False).eval()
        with torch.no_grad():
            assert (again(z, torch.tensor([3.0, 412.5])).sample - wanted).abs().max() < 1e-5


def test_gradients_reach_the_image(tmp_path: Path) -> None:
    _saved(GUIDED, tmp_path / "model.pt")
    denoiser, leaf = load_denoiser(tmp_path / "model.pt", GUIDED), photos(1, 8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(denoiser(leaf, 0.2).square().sum(), leaf)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learn_sigma": False}, r"out\.2\.weight \(expected \[3, 32, 3, 3\], got \[6, 32, 3, 3\]\)"),
        (
            {"use_scale_shift_norm": False},
            r"input_blocks\.1\.0\.emb_layers\.1\.weight \(expected \[32, 128\], got \[64, 128\]\)",
        ),
        ({"resblock_updown": False}, r"missing: input_blocks\.2\.0\.op\.weight.*unknown: input_blocks\.2\.0\.in_layers\.0"),
        ({"attention_resolutions": (8, 4)}, r"missing: input_blocks\.5\.1\.norm\.weight"),
        ({"attention_resolutions": ()}, r"unknown: input_blocks\.3\.1\.norm\.weight"),
        ({"num_res_blocks": 2}, "missing: "),
        ({"num_channels": 64}, r"time_embed\.0\.weight \(expected \[256, 64\], got \[128, 32\]\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_flags_that_do_not_fit_are_told_by_the_files_names(tmp_path: Path, change: dict[str, object], said: str) -> None:
    file = tmp_path / "model.pt"
    _saved(GUIDED, file)
    with pytest.raises(ValueError, match=rf"model\.pt: expected the tensors of these flags; .*{said}"):
        load_denoiser(file, dataclasses.replace(GUIDED, **change))


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    original, _, _ = _saved(GUIDED, file)
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt: expected a weights file"):
        load_denoiser(tmp_path / "nothing.pt")
    torch.save({**original.tensors, "label_emb.weight": torch.zeros(1000, 128)}, file)
    with pytest.raises(ValueError, match=r"model\.pt: expected an unconditional model, got a class-conditional one"):
        load_denoiser(file, GUIDED)
    torch.save({"conv.weight": torch.zeros(3, 3, 1, 1)}, file)
    with pytest.raises(ValueError, match=r"missing: .*; unknown: conv\.weight"):
        load_denoiser(file, GUIDED)
    torch.save({"weights": Flags()}, file)
    with pytest.raises(ValueError, match=r"model\.pt: refused, since it is no checkpoint of plain tensors"):
        load_denoiser(file, GUIDED)


def test_flags_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"channel_mult: expected a 1 first, got \(2, 4\)"):
        Flags(channel_mult=(2, 4))
    with pytest.raises(ValueError, match="noise_schedule: expected linear or cosine, got 'sqrt'"):
        Flags(noise_schedule="sqrt")
    with pytest.raises(ValueError, match="num_channels: expected widths that divide by 32 .*got 48"):
        Flags(num_channels=48)
    with pytest.raises(ValueError, match="num_head_channels, num_heads: expected attention over 512 channels to divide"):
        Flags(num_head_channels=48)
