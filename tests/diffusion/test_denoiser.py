"""Denoisers: units, padding, and the solution for the image from each kind of prediction."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import photos
from toys_diffusion import Timed

from robustrestore import diffusion

# Level t* (number of unit steps of the linear schedule, array entry t* - 1) -> sigma in [0, 1] units, three digits.
FACTS = {10: 0.0218, 50: 0.0864, 70: 0.119, 100: 0.169, 125: 0.213, 150: 0.259, 200: 0.360}


class _Recorder(nn.Module):
    """Returns what it is shown and keeps it."""

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        self.noisy, self.level = noisy, level
        return noisy


class _Knowing(nn.Module):
    """Predicts exactly, since it knows the clean image and the schedule (interpolated by NumPy in float64)."""

    def __init__(self, clean: Tensor, alphas: list[float], prediction: str, extra: int = 0) -> None:
        super().__init__()
        self.z0, self.prediction, self.extra = 2 * clean - 1, prediction, extra
        a = np.array(alphas)
        self.logs = np.log(np.sqrt((1 - a) / a) / 2)

    def forward(self, z: Tensor, timestep: Tensor) -> Tensor:
        sigma = np.exp(np.interp(timestep.double().numpy(), np.arange(len(self.logs)), self.logs))
        a = torch.from_numpy(1 / (1 + 4 * sigma**2)).view(-1, 1, 1, 1)
        noise = (z.double() - a.sqrt() * self.z0) / (1 - a).sqrt()
        out = {"epsilon": noise, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * self.z0, "sample": self.z0.double()}
        found = out[self.prediction].expand_as(z).to(z)
        return torch.cat([found, torch.full_like(z, 1e3)[:, : self.extra]], dim=1)


def test_noise_conditioned_speaks_the_networks_units() -> None:
    images, network = photos(), _Recorder()
    denoiser = diffusion.NoiseConditioned(network, scale=2, shift=-1)
    torch.testing.assert_close(denoiser(images, 0.1), images)
    torch.testing.assert_close(network.noisy, 2 * images - 1)
    torch.testing.assert_close(network.level, torch.tensor([0.2, 0.2]))


def test_padding_reaches_the_network_and_is_cropped() -> None:
    images, network = photos(2, 13, 18), _Recorder()
    denoiser = diffusion.NoiseConditioned(network, multiple=8)
    assert torch.equal(denoiser(images, 0.1), images)
    assert network.noisy.shape == (2, 3, 16, 24)
    assert torch.equal(network.noisy[:, :, 15, :18], images[:, :, 12])
    assert torch.equal(network.noisy[:, :, :13, 23], images[:, :, :, 17])


def test_sigma_is_a_number_or_one_for_each_image() -> None:
    images = photos()
    denoiser = diffusion.SigmaUNet(width=4)
    nn.init.normal_(denoiser.body.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    both = denoiser(images, torch.tensor([0.05, 0.3]))
    torch.testing.assert_close(both[:1], denoiser(images[:1], 0.05))
    torch.testing.assert_close(both[1:], denoiser(images[1:], torch.tensor(0.3)))
    assert (both[1] - denoiser(images, 0.05)[1]).abs().max() > 0.01


def test_denoiser_errors() -> None:
    denoiser = diffusion.NoiseConditioned(_Recorder())
    with pytest.raises(ValueError, match=r"noisy: expected shape \[N, C, H, W\]"):
        denoiser(photos()[0], 0.1)
    with pytest.raises(TypeError, match="noisy: expected a floating dtype"):
        denoiser(photos().long(), 0.1)
    with pytest.raises(ValueError, match=r"sigma: expected a number or one level for each of 2 images, got shape \[3\]"):
        denoiser(photos(), torch.tensor([0.1, 0.1, 0.1]))
    strided = diffusion.NoiseConditioned(_Pool())
    with pytest.raises(ValueError, match=r"expected an estimate of shape \[2, 3, 16, 20\], got \[2, 3, 8, 10\]"):
        strided(photos(), 0.1)


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf"), -1])
def test_levels_that_are_none_are_refused(wrong: float) -> None:
    denoiser = diffusion.NoiseConditioned(_Recorder())
    with pytest.raises(ValueError, match=f"sigma: expected finite levels >= 0, got {wrong}"):
        denoiser(photos(), wrong)
    with pytest.raises(ValueError, match="sigma: expected finite levels >= 0, got "):
        denoiser(photos(), torch.tensor([0.1, wrong]))
    assert denoiser(photos()[:0], torch.tensor([])).shape == (0, 3, 16, 20)


def test_levels_elsewhere_are_not_looked_at() -> None:
    meta = torch.empty(2, 3, 16, 20, device="meta")  # a device whose values nobody can wait for
    assert diffusion.NoiseConditioned(_Recorder())(meta, torch.full((2,), 0.1, device="meta")).shape == meta.shape


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_wrong_scales_and_shifts(scale: float) -> None:
    with pytest.raises(ValueError, match="scale: expected a finite number above 0, got"):
        diffusion.NoiseConditioned(_Recorder(), scale=scale)
    if not math.isfinite(scale):
        with pytest.raises(ValueError, match="shift: expected a finite number, got"):
            diffusion.NoiseConditioned(_Recorder(), shift=scale)


@pytest.mark.parametrize("multiple", [0, -3, 2.5, float("nan")])
def test_wrong_multiples(multiple: int) -> None:
    for make in (diffusion.NoiseConditioned, diffusion.DiscreteTime):
        with pytest.raises(ValueError, match=f"multiple: expected a whole number >= 1, got {multiple}"):
            make(Timed(), multiple=multiple)


@pytest.mark.parametrize(("channels", "width"), [(0, 4), (3, 0), (-1, 4)])
def test_networks_without_channels(channels: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"channels, width: expected whole numbers >= 1, got {channels} and {width}"):
        diffusion.SigmaUNet(channels, width)


class _Says(nn.Module):
    def __init__(self, found: object) -> None:
        super().__init__()
        self.found = found

    def forward(self, noisy: Tensor, level: Tensor) -> object:
        return self.found


@pytest.mark.parametrize("make", [diffusion.NoiseConditioned, lambda n: diffusion.DiscreteTime(n, prediction="sample")])
def test_answers_that_are_no_images_are_refused(make: object) -> None:
    with pytest.raises(TypeError, match="expected a tensor.*, got tuple"):
        make(_Says((photos(), photos())))(photos(), 0.1)
    with pytest.raises(TypeError, match="_Says: expected a floating tensor of images, got torch.int64"):
        make(_Says(photos().long()))(photos(), 0.1)
    for few in (photos()[:, :1], photos()[:1]):  # what would broadcast
        with pytest.raises(ValueError, match=r"_Says: expected an estimate of shape \[2, 3, 16, 20\], got"):
            make(_Says(few))(photos(), 0.1)


class _Pool(nn.Module):
    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(noisy, 2)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (17, 23), (50, 65)])
def test_sigma_unet_keeps_odd_sizes_and_is_the_identity_at_zero(height: int, width: int) -> None:
    images = photos(1, height, width)
    denoiser = diffusion.SigmaUNet(width=4)
    nn.init.normal_(denoiser.body.head.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(denoiser(images, 0.0), images)
    out = denoiser(images, 0.2)
    assert out.shape == images.shape
    assert (out - images).abs().max() > 0.01
    level = torch.tensor([0.2])
    padded = nn.functional.pad(images, (0, -width % 8, 0, -height % 8), mode="replicate")
    torch.testing.assert_close(out, images - 0.2 * denoiser.noise(padded, level)[..., :height, :width])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("extra", [0, 3])
def test_a_knowing_network_gives_the_clean_image(prediction: str, extra: int) -> None:
    clean, alphas = photos(1).double(), diffusion.linear_alphas()
    network = _Knowing(clean, alphas, prediction, extra)
    denoiser = diffusion.DiscreteTime(network, alphas, prediction)
    for level in [denoiser.sigma(0), 0.03, denoiser.sigma(99), 0.2222, 0.5, denoiser.sigma(600)]:
        noisy = clean + level * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        torch.testing.assert_close(denoiser(noisy, level), clean, atol=2e-5, rtol=0)


def test_a_knowing_network_of_rounded_timesteps_is_exact_on_the_table() -> None:
    clean, alphas = photos(1).double(), diffusion.linear_alphas()
    denoiser = diffusion.DiscreteTime(_Knowing(clean, alphas, "epsilon"), alphas, rounded=True)
    level = denoiser.sigma(149)
    noisy = clean + level * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(denoiser(noisy, level), clean, atol=1e-5, rtol=0)


def test_timestep_scale_changes_what_the_network_is_told_and_nothing_else() -> None:
    recorder = _Recorder()
    alphas = diffusion.linear_alphas(4000, 2.5e-5, 5e-3)
    denoiser = diffusion.DiscreteTime(recorder, alphas, "sample", timestep_scale=0.25)
    images, level = photos(), denoiser.sigma(402)
    denoiser(images, level)
    torch.testing.assert_close(recorder.level, torch.full((2,), 100.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(denoiser.timestep(torch.tensor([level])), torch.tensor([402.0]), atol=4e-3, rtol=0)
    torch.testing.assert_close(recorder.noisy, math.sqrt(alphas[402]) * (2 * images - 1))
    rounded = diffusion.DiscreteTime(recorder, alphas, "sample", rounded=True, timestep_scale=0.25)
    rounded(images, 1.001 * level)
    assert recorder.level.tolist() == [100.5, 100.5]
    diffusion.DiscreteTime(recorder, alphas, "sample", rounded=True)(images, level)
    assert recorder.level.dtype == torch.int64  # an index into a table of embeddings
    assert rounded.replace(rounded=False).timestep_scale == 0.25


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_wrong_timestep_scales(scale: float) -> None:
    with pytest.raises(ValueError, match="timestep_scale: expected a finite number above 0, got"):
        diffusion.DiscreteTime(Timed(), timestep_scale=scale)


def test_levels_are_those_of_the_literature() -> None:
    denoiser = diffusion.DiscreteTime(Timed())
    betas = np.linspace(1e-4, 0.02, 1000)
    for steps, sigma in FACTS.items():
        assert denoiser.sigma(steps - 1) == pytest.approx(sigma, abs=0.5 * 10 ** (math.floor(math.log10(sigma)) - 2))
        a = np.prod(1 - betas[:steps])
        assert denoiser.sigma(steps - 1) == pytest.approx(math.sqrt((1 - a) / a) / 2, rel=1e-12)


@pytest.mark.parametrize("rounded", [False, True])
def test_sigma_and_timestep_are_inverse_on_the_table(rounded: bool) -> None:
    denoiser = diffusion.DiscreteTime(Timed(), rounded=rounded)
    levels = torch.tensor([denoiser.sigma(t) for t in range(1000)], dtype=torch.float64)
    found = denoiser.timestep(levels)
    assert found.is_floating_point() != rounded
    if rounded:
        assert torch.equal(found, torch.arange(1000))
    else:
        torch.testing.assert_close(found.double(), torch.arange(1000.0, dtype=torch.float64), atol=1e-3, rtol=0)


def test_timesteps_between_entries_and_beyond_the_table() -> None:
    denoiser = diffusion.DiscreteTime(Timed())
    between = math.sqrt(denoiser.sigma(40) * denoiser.sigma(41))  # halfway in log sigma
    levels = torch.tensor([between, 1e-9, 0.0, 1e9])
    torch.testing.assert_close(denoiser.timestep(levels), torch.tensor([40.5, 0.0, 0.0, 999.0]), atol=1e-3, rtol=0)
    nearest = diffusion.DiscreteTime(Timed(), rounded=True)
    near = torch.tensor(
        [0.9 * denoiser.sigma(40) + 0.1 * denoiser.sigma(41), 0.1 * denoiser.sigma(40) + 0.9 * denoiser.sigma(41)]
    )
    assert nearest.timestep(near).tolist() == [40, 41]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_changing_the_dtype_of_a_model_leaves_its_schedule_alone(dtype: torch.dtype) -> None:
    plain, cast = diffusion.DiscreteTime(Timed()), diffusion.DiscreteTime(Timed()).to(dtype)
    levels = torch.tensor([0.0218, 0.169, 0.36, 5.0])
    torch.testing.assert_close(cast.timestep(levels), plain.timestep(levels))
    assert cast.sigma(99) == plain.sigma(99)


@pytest.mark.parametrize("timestep", [-1, 1000, 9.5])
def test_timesteps_off_the_table_have_no_level(timestep: float) -> None:
    with pytest.raises(ValueError, match=f"timestep: expected a whole number from 0 to 999, got {timestep}"):
        diffusion.DiscreteTime(Timed()).sigma(timestep)


class _Exact(nn.Module):
    """Predicts exactly, as `_Knowing`, in the dtype that it is shown; told the noise and the level."""

    def __init__(self, clean: Tensor, noise: Tensor, prediction: str) -> None:
        super().__init__()
        self.z0, self.noise, self.prediction, self.sigma = 2 * clean - 1, noise, prediction, 0.0

    def forward(self, z: Tensor, timestep: Tensor) -> Tensor:
        cos = (1 + 4 * self.sigma**2) ** -0.5
        sin = 2 * self.sigma * cos
        v = cos * self.noise - sin * self.z0
        return {"epsilon": self.noise, "v_prediction": v, "sample": self.z0}[self.prediction].to(z)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("dtype", "timesteps"), [(torch.float16, (0, 1, 9, 49)), (torch.bfloat16, (3, 9, 49))])
def test_low_levels_are_taken_out_in_half_precision(
    dtype: torch.dtype, timesteps: tuple[int, ...], prediction: str, rounded: bool
) -> None:
    clean = 0.6 * torch.ones(1, 3, 16, 16, dtype=torch.float64)  # in (0.5, 1), where numbers are an eps / 2 apart
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    network = _Exact(clean, noise, prediction)
    denoiser = diffusion.DiscreteTime(network, prediction=prediction, rounded=rounded)
    for timestep in timesteps:
        network.sigma = sigma = denoiser.sigma(timestep)
        found = denoiser((clean + sigma * noise).to(dtype), sigma)
        assert found.dtype == dtype
        left = float((found.double() - clean).square().mean().sqrt())
        assert left < torch.finfo(dtype).eps  # rounding of the image, of the prediction and of sigma
        assert left < 0.45 * sigma


def test_the_lowest_levels_are_taken_out_in_single_precision() -> None:
    clean, noise = photos(1).double(), torch.randn(1, 3, 16, 20, generator=torch.Generator().manual_seed(1)).double()
    for prediction in ("epsilon", "v_prediction"):
        network = _Exact(clean, noise, prediction)
        network.sigma = 1e-4  # 1 - a is 4e-8, less than half of what float32 tells from 1
        found = diffusion.DiscreteTime(network, prediction=prediction)((clean + 1e-4 * noise).float(), 1e-4)
        torch.testing.assert_close(found.double(), clean, atol=3e-7, rtol=0)


class _Odd(nn.Module):
    def forward(self, z: Tensor, timestep: Tensor) -> dict[str, Tensor]:
        return {"sample": z}


@pytest.mark.parametrize(
    "alphas", [[], [0.9], [0.5, 0.9], [0.9, 0.9], [1.0, 0.5], [0.5, 0.0], [0.5, float("nan")]], ids=lambda v: repr(v)
)
def test_wrong_alphas(alphas: list[float]) -> None:
    with pytest.raises(ValueError, match=r"alphas: expected .*values in \(0, 1\) that fall with the timestep"):
        diffusion.DiscreteTime(Timed(), alphas)


def test_wrong_predictions() -> None:
    with pytest.raises(ValueError, match="prediction: expected epsilon, v_prediction or sample, got 'noise'"):
        diffusion.DiscreteTime(Timed(), prediction="noise")
    with pytest.raises(TypeError, match=r"network: expected a tensor or an object with \.sample, got dict"):
        diffusion.DiscreteTime(_Odd())(photos(), 0.1)
