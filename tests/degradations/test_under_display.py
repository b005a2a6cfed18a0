"""Under-display formation, by the numbers of its checklist: PSFs, order of steps, light kept, displays as physics says."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toys import photos

import robustrestore as rr
from robustrestore.degradations import POLED, PSF, TOLED, StoredPSF, UnderDisplay, inverse_tone_map, pseudo_hdr, tone_map
from robustrestore.degradations._convolve import convolve

SIZE = 293
TABLE = {7: 0.213, 14: 0.098, 36: 0.244, 111: 0.182, 147: 0.176}  # ring of a 294-point transfer function: ours of before


def _corner(size: int) -> StoredPSF:
    """A different, asymmetric kernel in each channel."""
    own = torch.Generator().manual_seed(5)
    return StoredPSF.of(torch.rand(3, size, size, generator=own) ** 4)


def _scene(*shape: int) -> Tensor:
    own = torch.Generator().manual_seed(9)
    return torch.rand(shape, generator=own) * torch.where(torch.rand(shape, generator=own) > 0.97, 400.0, 1.0)


def _rings(kernel: Tensor, count: int = 294) -> Tensor:
    """The mean modulus of the transfer function over rings of equal frequency."""
    modulus = torch.fft.fft2(kernel, (count, count)).abs().flatten()
    steps = torch.fft.fftfreq(count) * count
    ring = (steps[:, None] ** 2 + steps[None] ** 2).sqrt().round().long().flatten()
    return torch.zeros(int(ring.max()) + 1).index_add(0, ring, modulus) / torch.bincount(ring)


@pytest.mark.parametrize("psf", [_corner(7), TOLED(45), POLED(45, seed=3), TOLED(21, angle=30)], ids=repr)
def test_formation_1_light_is_positive_and_sums_to_one(psf: PSF) -> None:
    kernel = psf()
    assert kernel.shape[0] == 3
    assert float(kernel.min()) >= 0
    torch.testing.assert_close(kernel.sum(dim=(1, 2)), torch.ones(3))


@pytest.mark.parametrize(("height", "width"), [(12, 15), (13, 8)])
@pytest.mark.parametrize("size", [1, 2, 5, 6, 41])
def test_formation_1_a_point_changes_nothing(size: int, height: int, width: int) -> None:
    point = torch.zeros(3, size, size)
    point[:, size // 2, size // 2] = 4.0
    images = tone_map(_scene(2, 3, height, width))
    for camera in (UnderDisplay(StoredPSF.of(point)), UnderDisplay(StoredPSF())):
        torch.testing.assert_close(camera(images.double()), images.double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(
            camera(images), images, atol=2e-4, rtol=0
        )  # light of 400 beside light of 0 is hard on floats


@pytest.mark.parametrize(("height", "width"), [(12, 15), (5, 8)])
@pytest.mark.parametrize("size", [3, 9])
def test_formation_1_it_is_a_convolution_not_a_correlation(size: int, height: int, width: int) -> None:
    scene, kernel = _scene(2, 3, height, width), _corner(size)()
    direct = F.conv2d(scene, kernel.flip(1, 2)[:, None], padding=size // 2, groups=3)
    other = F.conv2d(scene, kernel[:, None], padding=size // 2, groups=3)
    found = convolve(scene, kernel)
    assert float((found - direct).abs().max() / direct.abs().max()) < 1e-5
    assert float((other - direct).abs().max() / direct.abs().max()) > 0.05  # so that the kernel can tell the two apart
    captured = UnderDisplay(_corner(size)).capture(scene, [0, 1])
    torch.testing.assert_close(captured, tone_map(direct.clamp(0, 500)), atol=2e-4, rtol=0)


def test_formation_1_a_shifted_point_shifts_each_channel_by_whole_pixels() -> None:
    kernel = torch.zeros(3, 5, 5)
    kernel[0, 2, 3] = kernel[1, 0, 2] = kernel[2, 2, 2] = 1
    images = photos(1, 9, 10)
    out = UnderDisplay(StoredPSF.of(kernel))(images)
    torch.testing.assert_close(out[:, 0, :, 1:], images[:, 0, :, :-1], atol=1e-6, rtol=0)
    torch.testing.assert_close(out[:, 1, :-2], images[:, 1, 2:], atol=1e-6, rtol=0)
    torch.testing.assert_close(out[:, 2], images[:, 2], atol=1e-6, rtol=0)
    assert float(out[:, 0, :, 0].abs().max()) < 1e-6  # dark beyond the edge


def test_formation_2_the_tone_map_has_an_inverse() -> None:
    light = torch.cat([torch.linspace(0, 2, 50), torch.linspace(2, 500, 50)]).double()
    torch.testing.assert_close(inverse_tone_map(tone_map(light)), light, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(inverse_tone_map(tone_map(light.float())), light.float(), atol=1e-5, rtol=3e-4)
    assert float(tone_map(torch.tensor(500.0))) == pytest.approx(0.9995, abs=5e-6)
    assert float(tone_map(torch.tensor(0.25))) == 0.5
    assert float(inverse_tone_map(torch.tensor(1.0, dtype=torch.float64))) == pytest.approx(500)


def test_formation_2_light_is_clipped_before_the_psf_and_before_the_tone_map() -> None:
    half = torch.zeros(3, 3, 3)
    half[:, 1, 1] = half[:, 1, 2] = 1
    camera = UnderDisplay(StoredPSF.of(half))
    scene = torch.zeros(1, 3, 1, 4)
    scene[..., 1] = 1e6
    torch.testing.assert_close(
        camera.capture(scene, [0])[0, 0, 0], tone_map(torch.tensor([0.0, 250.0, 250.0, 0.0])), atol=1e-4, rtol=0
    )
    noisy = UnderDisplay(StoredPSF(), white=1e-3).capture(torch.full((1, 3, 20, 20), 500.0), [0])
    assert float(noisy.max()) == pytest.approx(500 / 500.25)  # the noise is added before the clip
    assert float(noisy.min()) == 0


def test_formation_2_noise_comes_after_the_psf_and_before_the_tone_map() -> None:
    flat = torch.full((1, 3, 120, 120), 0.25)
    white = 1000.0
    noisy = inverse_tone_map(UnderDisplay(TOLED(21), white=white)(tone_map(flat)).double())[..., 15:-15, 15:-15]
    assert float(noisy.mean()) == pytest.approx(0.25, abs=1e-3)
    assert float(noisy.std()) == pytest.approx(math.sqrt(0.25 * white + 4.87**2) / white, rel=0.03)
    neighbours = (noisy[..., 1:] - 0.25) * (noisy[..., :-1] - 0.25)
    assert abs(float(neighbours.mean()) / float(noisy.var())) < 0.03  # white: not blurred by the display


def test_formation_2_highlights_flare_and_clipped_ones_do_not() -> None:
    grey = torch.full((1, 3, 101, 101), 0.3)
    psf, bright, clipped = TOLED(101), grey.clone(), grey.clone()
    bright[..., 50, 50], clipped[..., 50, 50] = 400, 1
    plain, flare, none = (UnderDisplay(psf).capture(scene, [0])[0, 1, 50] for scene in (grey, bright, clipped))
    for order in (slice(33, 36), slice(64, 68)):  # the first ones of green, at 50 -+ 15.8
        assert float((flare - plain)[order].max()) > 0.3
        assert float((none - plain)[order].max()) < 0.1
    assert float((flare - plain)[:30].max()) > 0.3  # and orders beyond them
    assert float((none - plain)[:30].max()) < 0.05


def test_formation_3_the_transfer_function_of_slits() -> None:
    kernel = TOLED(SIZE)()
    rings = _rings(kernel[1])
    for ring, value in TABLE.items():
        assert float(rings[ring]) == pytest.approx(value, abs=0.02), ring
    assert float(rings[73:75].mean()) == pytest.approx(0.203, abs=0.02)
    published = [1, 0.181, 0.096, 0.206, 0.150, 0.111, 0.094]  # a T-OLED's, at the same frequencies
    ours = [
        float(rings[0]),
        *(float(rings[ring]) for ring in (7, 14, 36)),
        float(rings[73:75].mean()),
        *rings[[111, 147]].tolist(),
    ]
    assert np.corrcoef(ours, published)[0, 1] > 0.97
    for channel, peak in enumerate((0.154, 0.169, 0.179)):
        assert float(kernel[channel].max()) == pytest.approx(peak, abs=0.01)
        assert int(kernel[channel].argmax()) == (SIZE // 2) * SIZE + SIZE // 2


@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_formation_3_side_orders_are_where_physics_says(angle: float) -> None:
    middle = SIZE // 2
    for kernel, wavelength in zip(TOLED(SIZE, angle=angle)(), (610e-9, 530e-9, 470e-9), strict=True):
        line = kernel[middle] if angle == 0 else kernel[:, middle]
        for order in (1, 2, 3):
            expected = order * wavelength * 10e-3 / 168e-6 / 2e-6
            near = round(expected)
            window = line[middle + near - 5 : middle + near + 6]
            assert abs(int(window.argmax()) - 5 + near - expected) <= 1
            torch.testing.assert_close(line.flip(0), line, atol=1e-6, rtol=1e-3)  # nothing is shifted by half a pixel


def test_formation_3_a_bare_aperture_is_an_airy_disc() -> None:
    found = torch.fft.fft2(TOLED(SIZE, share=1.0)()[1], (294, 294)).abs()[0]
    cutoff = 4e-3 / (530e-9 * 10e-3) * 2e-6  # cycles a pixel, beyond what pixels resolve: so frequencies fold

    def ideal(frequency: float) -> float:
        nu = min(1.0, abs(frequency) / cutoff)
        box = math.sin(math.pi * frequency) / (math.pi * frequency)
        return 2 / math.pi * (math.acos(nu) - nu * math.sqrt(1 - nu**2)) * box

    for k in (20, 36, 73, 111, 147):
        assert float(found[k]) == pytest.approx(sum(ideal(k / 294 + fold) for fold in (-1, 0, 1)), abs=0.02)


def test_formation_3_turned_tiles_fill_the_zeros() -> None:
    rings = [_rings(POLED(SIZE, seed=seed)()[1]) for seed in (0, 1)]
    assert all(float(r[5:120].min()) > 0.1 for r in rings)
    kernels = [POLED(45, seed=seed)() for seed in range(5)]
    for first in range(5):
        for second in range(first):
            assert float((kernels[first] - kernels[second]).abs().sum()) > 0.1  # displays for training and for testing differ
    middle = slice(SIZE // 2 - 4, SIZE // 2 + 5)
    for share in (0.25, 0.75):  # the energy that a grating leaves in its order 0
        assert float(POLED(SIZE, share=share)()[1, middle, middle].sum()) == pytest.approx(share, abs=0.05)


def test_gradients_are_those_of_the_formula() -> None:
    leaf = photos(1, 6, 7).double().requires_grad_()
    camera = UnderDisplay(_corner(3))
    assert torch.autograd.gradcheck(camera, (leaf,), eps=1e-6, atol=1e-5)
    noisy = UnderDisplay(_corner(3), white=1e4)
    (gradient,) = torch.autograd.grad(noisy(leaf).sum(), leaf)
    (quiet,) = torch.autograd.grad(camera(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, quiet, rtol=0.2, atol=0.05)
    assert camera(photos().half()).dtype == torch.float16
    assert UnderDisplay(_corner(3), white=10)(photos()[:0]).shape == photos()[:0].shape


def test_keys_are_the_noise() -> None:
    camera, images = UnderDisplay(_corner(3), white=100, seed=2), photos(2)
    out = camera(images, [4, 5])
    assert torch.equal(camera(images[1:], [5]), out[1:])
    assert not torch.equal(camera(images, [4, 6])[1], out[1])
    assert not torch.equal(camera.replace(seed=3)(images, [4, 5]), out)


def test_a_stored_psf_is_saved_with_its_camera(tmp_path: Path) -> None:
    camera = UnderDisplay(_corner(5), white=200)
    camera.save_pretrained(tmp_path)
    loaded = UnderDisplay.from_pretrained(tmp_path)
    assert torch.equal(loaded.psf(), camera.psf())
    assert torch.equal(loaded(photos()), camera(photos()))


def test_psf_files(tmp_path: Path) -> None:
    values = _corner(4).values[:, :4, :4].numpy()
    np.save(tmp_path / "first.npy", values)
    np.save(tmp_path / "last.npy", values.transpose(1, 2, 0))
    first, last = (StoredPSF.load(tmp_path / name) for name in ("first.npy", "last.npy"))
    assert torch.equal(first(), last())
    assert first.size == 5
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "short.npy").write_bytes((tmp_path / "first.npy").read_bytes()[:-20])
    for name in ("objects.npy", "short.npy"):
        with pytest.raises(ValueError, match=rf"{name}: expected a \.npy file of numbers"):
            StoredPSF.load(tmp_path / name)


def test_highlights_by_their_size() -> None:
    image = torch.full((2, 3, 40, 40), 0.3)
    image[0, :, 2:7, 2:9] = 0.9  # 35 pixels
    image[0, :, 20:27, 2:11] = 0.9  # 63
    image[0, :, 20:28, 20:28] = 0.9  # 64
    image[0, :, 2:12, 20] = image[0, :, 2, 20:30] = 0.9  # an L of 19 pixels in a box of 100
    image[0, :, 35, 35] = 0.8  # brighter than 0.7 of the brightest, but not bright
    scene = pseudo_hdr(image)
    gain = (scene / image)[0, 0]
    for place, value in {(4, 4): 101, (22, 4): 65, (22, 22): 9, (5, 20): 9, (5, 25): 1, (35, 35): 1, (0, 0): 1}.items():
        assert float(gain[place]) == pytest.approx(value), place
    torch.testing.assert_close(scene[1], image[1])
    warm = torch.tensor([1.0, 0.4, 0.3]).view(1, 3, 1, 1).expand(1, 3, 8, 8).clone()  # bright in one channel alone
    torch.testing.assert_close(pseudo_hdr(warm), 9 * warm)
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\]"):
        pseudo_hdr(image * 255)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UnderDisplay(StoredPSF(), white=0), "white: expected electrons > 0 or None, got 0"),
        (lambda: UnderDisplay(StoredPSF())(photos()[:, :2]), "images: expected 3 channels, as the PSF has, got 2"),
        (lambda: TOLED(share=0), r"share: expected a share in \(0, 1\], got 0"),
        (lambda: POLED(share=1.5), r"share: expected a share in \(0, 1\], got 1.5"),
        (lambda: TOLED(20)(), "size: expected an odd number of pixels, got 20"),
        (lambda: StoredPSF(size=4), "expected an odd size and a channel or more, got size 4"),
        (lambda: StoredPSF.of(torch.ones(5, 5)), r"values: expected a square kernel \[C, K, K\], got \[5, 5\]"),
        (lambda: StoredPSF.of(-torch.ones(3, 5, 5)), "StoredPSF: expected finite values >= 0 and some light in every channel"),
        (lambda: StoredPSF.of(torch.zeros(3, 5, 5)), "some light in every channel"),
        (lambda: StoredPSF.of(torch.full((3, 5, 5), torch.nan)), "expected finite values"),
    ],
)
def test_wrong_values(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_a_grey_psf_serves_every_channel_and_own_psfs_are_checked() -> None:
    kernel = torch.rand(1, 3, 3)
    images = photos(1, 8, 8)
    grey, colour = (UnderDisplay(StoredPSF.of(k))(images) for k in (kernel, kernel.expand(3, 3, 3)))
    torch.testing.assert_close(grey, colour)

    class Even(rr.degradations.PSF):
        def run(self) -> Tensor:
            return torch.ones(3, 4, 4)

    with pytest.raises(ValueError, match=r"Even: expected a kernel \[C, K, K\] with K odd, got \[3, 4, 4\]"):
        Even()()
