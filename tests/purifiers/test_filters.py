"""The plain filters against SciPy, Pillow and exact grids."""

import io
import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from toys import photos

from robustrestore.purifiers import BitDepth, Blur, Jpeg, Median
from robustrestore.purifiers.jpeg import _CHROMA, _LUMA, _table


def _photo(height: int = 256, width: int = 320) -> torch.Tensor:
    """A crop of a photograph [1, 3, height, width] on the grid of 8-bit values."""
    from skimage.data import chelsea

    pixels = chelsea()[20 : 20 + height, 60 : 60 + width]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def _scipy(images: torch.Tensor, run) -> torch.Tensor:
    planes = [[torch.from_numpy(run(plane.numpy())) for plane in image] for image in images]
    return torch.stack([torch.stack(image) for image in planes])


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(("height", "width"), [(17, 23), (4, 5)])
def test_blur_is_that_of_scipy(sigma: float, height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    radius = max(1, math.ceil(3 * sigma))
    expected = _scipy(images, lambda plane: ndimage.gaussian_filter(plane, sigma, mode="nearest", radius=radius))
    torch.testing.assert_close(Blur(sigma)(images), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize(("height", "width"), [(17, 23), (2, 3)])
def test_median_is_that_of_scipy(size: int, height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    expected = _scipy(images, lambda plane: ndimage.median_filter(plane, size=size, mode="nearest"))
    assert torch.equal(Median(size)(images), expected)


@pytest.mark.parametrize("stage", [Blur(1.0), Jpeg(50)], ids=repr)
def test_autocast_changes_nothing(stage: torch.nn.Module) -> None:
    images = photos()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.mm(images[0, 0], images[0, 0].T).dtype == torch.bfloat16  # it does something
        found = stage(images)
    assert torch.equal(found, stage(images))
    assert stage(images.to("meta")).shape == images.shape  # a device that knows no autocast


def test_gradients_of_blur_and_median() -> None:
    leaf = torch.rand(1, 2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(Blur(0.8), leaf)
    assert torch.autograd.gradcheck(Median(3), leaf)


@pytest.mark.parametrize("bits", [1, 3, 4, 8, 16])
def test_bit_depth_rounds_to_the_grid(bits: int) -> None:
    images, top = torch.linspace(0, 1, 1001, dtype=torch.float64).view(1, 1, 1, -1), 2**bits - 1
    out = BitDepth(bits)(images)
    levels = out * top
    torch.testing.assert_close(levels, levels.round(), atol=1e-9, rtol=0)
    assert float((out - images).abs().max()) <= 0.5 / top + 1e-12
    assert out.unique().numel() == min(2**bits, 1001)
    assert torch.equal(BitDepth(bits)(out), out)


def test_bit_depth_of_one_bit_is_a_threshold_and_straight_through_backward() -> None:
    leaf = torch.tensor([0.0, 0.2, 0.49, 0.51, 0.8, 1.0]).view(1, 1, 1, 6).requires_grad_()
    out = BitDepth(1)(leaf)
    assert out.flatten().tolist() == [0, 0, 0, 1, 1, 1]
    weight = torch.arange(6.0).view(1, 1, 1, 6)
    (gradient,) = torch.autograd.grad((weight * out).sum(), leaf)
    assert torch.equal(gradient, weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 16])
def test_bit_depth_in_half_precision(dtype: torch.dtype, bits: int) -> None:
    images, top = torch.cat([photos(), torch.ones(1, 3, 16, 20)]).to(dtype), 2**bits - 1
    out = BitDepth(bits)(images)
    assert out.dtype == dtype
    assert float((out.double() - images.double()).abs().max()) <= 0.5 / top + torch.finfo(dtype).eps
    assert (out[2] == 1).all()
    grid = (torch.arange(2**bits, dtype=torch.float64) / top).to(dtype)
    assert torch.isin(out, grid).all()


def _pillow(images: torch.Tensor, quality: int) -> torch.Tensor:
    from PIL import Image

    pixels = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    decoded = np.asarray(Image.open(file)).reshape(pixels.shape)
    return torch.from_numpy(decoded.copy()).permute(2, 0, 1)[None].float() / 255


def _psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return -10 * math.log10(float((one - other).square().mean()))


@pytest.mark.parametrize("quality", [1, 5, 10, 15, 30, 35, 45, 49, 50, 60, 75, 90, 95, 100])
def test_quantisation_tables_are_those_of_libjpeg(quality: int) -> None:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    tables = Image.open(file).quantization
    for wanted, numbers in zip((tables[0], tables[1]), (_LUMA, _CHROMA), strict=True):
        assert _table(numbers, quality, torch.zeros(1)).flatten().tolist() == wanted


@pytest.mark.parametrize(("quality", "floor"), [(10, 43), (30, 43), (50, 43), (75, 45), (90, 46)])
@pytest.mark.parametrize(("height", "width"), [(256, 320), (100, 83)])
def test_jpeg_is_that_of_pillow(quality: int, floor: int, height: int, width: int) -> None:
    images = _photo(height, width)
    ours, theirs = Jpeg(quality)(images), _pillow(images, quality)
    assert _psnr(ours, theirs) > floor
    # nearer to the codec than the codec is to the photograph; the codec rounds YCbCr to integers, twice, and loses 0.1 dB
    assert _psnr(ours, theirs) > _psnr(theirs, images) + 8
    assert _psnr(ours, images) == pytest.approx(_psnr(theirs, images), abs=0.2)


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_grey_jpeg_is_that_of_pillow(quality: int) -> None:
    images = ((_photo(96, 83).mean(1, keepdim=True) * 255).round() / 255).contiguous()
    ours, theirs = Jpeg(quality)(images), _pillow(images, quality)
    assert _psnr(ours, theirs) > 50
    # a coefficient halfway between two steps may go either way, and changes its 8 x 8 block
    assert float(((ours - theirs).abs() > 1.5 / 255).float().mean()) < 0.05


def test_jpeg_values_are_those_of_eight_bits_and_flat_images_stay() -> None:
    out = Jpeg(50)(_photo(64, 64)) * 255
    torch.testing.assert_close(out, out.round(), atol=1e-4, rtol=0)
    flat = torch.full((1, 3, 20, 30), 128 / 255)
    torch.testing.assert_close(Jpeg(10)(flat), flat, atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_gradient_is_the_identity_on_luma(channels: int) -> None:
    leaf = photos(1, 16, 16)[:, :channels].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Jpeg(10)(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, torch.ones_like(leaf), atol=1e-3, rtol=0)  # coding keeps means
    weight = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((weight * Jpeg(10)(leaf)).sum(), leaf)
    if channels == 1:  # rounding counts as the identity, so the transform and its inverse cancel
        torch.testing.assert_close(gradient, weight, atol=1e-4, rtol=0)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    if channels == 3:  # a change of luma alone comes through whole; chroma only at half resolution
        (towards,) = torch.autograd.grad((weight[:, :1] * luma * Jpeg(10)(leaf)).sum(), leaf)
        torch.testing.assert_close(towards, weight[:, :1] * luma, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blur(0), "sigma: expected a finite width > 0 in pixels, got 0"),
        (lambda: Blur(float("nan")), "sigma: expected a finite width > 0"),
        (lambda: Median(4), "size: expected an odd number of pixels >= 1, got 4"),
        (lambda: Median(-1), "size: expected a whole number >= 1, got -1"),
        (lambda: BitDepth(0), "bits: expected a whole number from 1 to 16, got 0"),
        (lambda: BitDepth(17), "bits: expected a whole number from 1 to 16, got 17"),
        (lambda: Jpeg(0), "quality: expected a whole number from 1 to 100, got 0"),
        (lambda: Jpeg(101), "quality: expected a whole number from 1 to 100, got 101"),
        (lambda: Jpeg()(torch.rand(1, 2, 16, 16)), "images: expected 1 or 3 channels for JPEG, got 2"),
    ],
)
def test_wrong_values(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
