"""The image contract: what is refused and how, clamping that hides no gradient, padding, and tiles without seams."""

import contextlib
import re

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustrestore.images import (
    TOLERANCE,
    check_images,
    check_shape,
    clamp,
    pad_to_multiple,
    straight_through,
    tiled,
    trusted,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


NAN, INF = float("nan"), float("inf")
BAD_SHAPES = [
    ([[0.5]], TypeError, "images: expected a torch.Tensor, got list: convert it with torch.as_tensor"),
    (noise(3, 4, 4), ValueError, "images: expected shape [N, C, H, W], got [3, 4, 4]: add the batch axis with images[None]"),
    (noise(4, 4), ValueError, "images: expected shape [N, C, H, W], got [4, 4]: arrange it as a batch of images"),
    (noise(1, 1, 3, 4, 4), ValueError, "got [1, 1, 3, 4, 4]: arrange it as a batch of images"),
    (torch.ones(1, 3, 4, 4, dtype=torch.uint8), TypeError, "floating dtype, got torch.uint8: use images.float() / 255"),
    (torch.ones(1, 3, 4, 4, dtype=torch.bool), TypeError, "floating dtype, got torch.bool"),
    (noise(1, 0, 4, 4), ValueError, "expected at least one channel and pixel, got [1, 0, 4, 4]"),
    (noise(2, 3, 4, 0), ValueError, "expected at least one channel and pixel, got [2, 3, 4, 0]"),
]
BAD_VALUES = [
    (NAN, "expected finite values, got NaN or infinity: clean the input first"),
    (INF, "expected finite values, got NaN or infinity"),
    (-INF, "expected finite values, got NaN or infinity"),
    (255.0, "expected values in [0, 1], got [0.25, 255]: divide by 255"),
    (-2.118, "got [-2.118, 0.25]: divide by 255, or undo the normalisation and hand mean and std to Adapted"),
    (1 + 2 * TOLERANCE, "expected values in [0, 1]"),
    (-2 * TOLERANCE, "expected values in [0, 1]"),
]


def one_odd_value(value: float) -> Tensor:
    images = torch.full((2, 3, 4, 4), 0.25)
    images[1, 2, 3, 1] = value
    return images


@pytest.mark.parametrize(("images", "kind", "message"), BAD_SHAPES, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("check", [check_shape, check_images])
def test_shapes_and_dtypes_are_refused(check, images, kind, message) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        check(images)


@pytest.mark.parametrize(("value", "message"), BAD_VALUES)
def test_values_are_refused(value: float, message: str) -> None:
    check_shape(one_odd_value(value))  # the cheap check looks at no value
    with pytest.raises(ValueError, match=re.escape(message)):
        check_images(one_odd_value(value))


def test_errors_say_which_argument() -> None:
    with pytest.raises(ValueError, match="^noisy: expected values"):
        check_images(one_odd_value(2.0), "noisy")
    with pytest.raises(ValueError, match="^noisy: expected shape"):
        check_shape(noise(4, 4), "noisy")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_good_images_pass(dtype: torch.dtype) -> None:
    images = noise(2, 1, 3, 5).to(dtype)
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0, 1
    check_images(images)
    check_images(images[:0])  # an empty batch has no value to refuse
    check_images(one_odd_value(1 + TOLERANCE / 2))
    check_images(images.clone().requires_grad_())


def test_trusted_skips_values_but_not_shapes() -> None:
    wrong = one_odd_value(NAN)
    with trusted():
        check_images(wrong)
        with trusted():
            check_images(wrong)
        check_images(wrong)  # the inner block ended, the outer one did not
        with pytest.raises(ValueError, match="expected shape"):
            check_images(wrong[0])
    with pytest.raises(ValueError, match="finite"):
        check_images(wrong)


def test_trust_ends_with_an_error_too() -> None:
    with contextlib.suppress(KeyError), trusted():
        raise KeyError
    with pytest.raises(ValueError, match="finite"):
        check_images(one_odd_value(NAN))


WIDE = torch.tensor([[[[-7.0, -1e-8, 0.0, 0.3, 1.0, 1 + 1e-6, 40.0]]]])
CUT = torch.tensor([[[[0.0, 0.0, 0.0, 0.3, 1.0, 1.0, 1.0]]]])


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_clamp_values_are_exactly_in_the_box(needs_gradient: bool) -> None:
    images = WIDE.clone().requires_grad_(needs_gradient)
    out = clamp(images)
    assert torch.equal(out, CUT)
    assert out.requires_grad is needs_gradient
    assert torch.equal(images, WIDE)


def test_clamp_hides_no_gradient_at_the_edges_of_the_box() -> None:
    leaf, slopes = WIDE.clone().requires_grad_(), torch.arange(7.0).view(1, 1, 1, 7) - 3
    (gradient,) = torch.autograd.grad((clamp(leaf) * slopes).sum(), leaf)
    assert torch.equal(gradient, slopes)


def test_clamp_can_be_differentiated_twice() -> None:
    leaf = WIDE.clone().requires_grad_()
    (first,) = torch.autograd.grad(clamp(leaf).pow(3).sum(), leaf, create_graph=True)
    torch.testing.assert_close(first, 3 * CUT.square())
    (second,) = torch.autograd.grad(first.sum(), leaf)
    torch.testing.assert_close(second, 6 * CUT)


def test_clamp_without_a_graph() -> None:
    leaf = WIDE.clone().requires_grad_()
    with torch.no_grad():
        out = clamp(leaf)
    assert torch.equal(out, CUT)
    assert not out.requires_grad
    with torch.inference_mode():
        assert torch.equal(clamp(WIDE), CUT)


def test_straight_through_is_one_argument_forward_and_the_other_backward() -> None:
    value, source = noise(1, 2, 3, 4).requires_grad_(), noise(1, 2, 3, 4, seed=1).requires_grad_()
    out = straight_through(value.round(), 3 * source)
    assert torch.equal(out, value.round())
    to_value, to_source = torch.autograd.grad((2 * out).sum(), (value, source), allow_unused=True)
    assert to_value is None
    assert torch.equal(to_source, torch.full_like(source, 6.0))


def test_straight_through_a_constant_source_is_a_constant() -> None:
    value = noise(1, 2, 3, 4).requires_grad_()
    out = straight_through(value, value.detach())
    assert torch.equal(out, value)
    assert not out.requires_grad


def test_straight_through_needs_equal_shapes() -> None:
    with pytest.raises(ValueError, match=r"expected equal shapes, got \[1, 3, 4, 4\] and \[1, 1, 4, 4\]"):
        straight_through(noise(1, 3, 4, 4), noise(1, 1, 4, 4))


@pytest.mark.parametrize(("height", "width", "multiple"), [(1, 1, 8), (7, 9, 8), (8, 9, 4), (5, 6, 64), (3, 10, 2)])
def test_padding_repeats_the_last_row_and_column(height: int, width: int, multiple: int) -> None:
    images = noise(2, 3, height, width)
    out = pad_to_multiple(images, multiple)
    rows = torch.arange(out.shape[2]).clamp(max=height - 1)
    columns = torch.arange(out.shape[3]).clamp(max=width - 1)
    assert (out.shape[2] % multiple, out.shape[3] % multiple) == (0, 0)
    assert max(out.shape[2] - height, out.shape[3] - width) < multiple
    assert torch.equal(out, images[:, :, rows][..., columns])


def test_padding_nothing_gives_the_same_tensor() -> None:
    images = noise(1, 3, 16, 24)
    assert pad_to_multiple(images, 8) is images
    assert pad_to_multiple(images[..., :17], 1).shape == (1, 3, 16, 17)


SIZES = [
    (40, 50, 16, 0),
    (40, 50, 16, 5),
    (40, 50, 16, 15),
    (17, 16, 16, 4),
    (16, 33, 16, 8),
    (9, 70, 32, 8),
    (5, 6, 1, 0),
    (33, 31, 20, 19),
]


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_tiles_of_the_identity_give_the_image_again(height: int, width: int, tile: int, overlap: int) -> None:
    images = noise(2, 3, height, width)
    shapes = []

    def run(piece: Tensor) -> Tensor:
        shapes.append(tuple(piece.shape[2:]))
        return piece

    torch.testing.assert_close(tiled(run, images, tile, overlap), images, atol=3e-6, rtol=0)
    assert set(shapes) == {(min(tile, height), min(tile, width))}


@pytest.mark.parametrize(("dtype", "tile", "overlap"), [(torch.bfloat16, 300, 32), (torch.float16, 515, 256)])
def test_tiles_in_half_precision(dtype: torch.dtype, tile: int, overlap: int) -> None:
    images = noise(1, 1, 530, 700).to(dtype)  # bfloat16 counts to 256 only, and 257 squared is beyond float16
    out = tiled(lambda piece: piece, images, tile, overlap)
    assert out.dtype == dtype
    torch.testing.assert_close(out, images, atol=4 * torch.finfo(dtype).eps, rtol=0)


def test_tiles_may_change_the_number_of_channels() -> None:
    images = noise(2, 3, 30, 40)
    out = tiled(lambda piece: piece.sum(1, keepdim=True), images, 16, 4)
    torch.testing.assert_close(out, images.sum(1, keepdim=True))


def test_an_image_that_fits_is_handed_over_whole_and_once() -> None:
    images, calls = noise(1, 3, 16, 12), []
    out = tiled(lambda piece: calls.append(piece) or piece * 2, images, 16, 8)
    assert len(calls) == 1
    assert calls[0] is images
    assert torch.equal(out, images * 2)


def test_two_tiles_are_blended_linearly() -> None:
    tile, overlap, numbers = 10, 4, iter([0.0, 1.0])
    out = tiled(lambda piece: torch.full_like(piece, next(numbers)), noise(1, 1, 6, 2 * tile - overlap), tile, overlap)
    ramp = torch.cat([torch.zeros(6), torch.arange(1, 5) / 5, torch.ones(6)])
    torch.testing.assert_close(out, ramp.expand(1, 1, 6, 16))


def _convolved(overlap: int) -> tuple[Tensor, Tensor]:
    """What tiling a 5 x 5 convolution gets wrong [H, W], and by how many tiles each pixel was covered."""
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 1, 5, padding=2, bias=False).requires_grad_(False)
    height, width, tile = 50, 61, 24
    rows, columns = torch.arange(float(height)), torch.arange(float(width))
    images = torch.stack([noise(height, width), rows[:, None].expand(-1, width), columns.expand(height, -1)])[None]
    covered = torch.zeros(height, width)

    def run(piece: Tensor) -> Tensor:
        top, left = (int(v) for v in piece[0, 1:, 0, 0])
        covered[top : top + tile, left : left + tile] += 1
        return layer(piece[:, :1])

    found = tiled(run, images, tile, overlap)
    return (found - layer(images[:, :1]))[0, 0].abs(), covered


def test_a_convolution_is_exact_inside_tiles_and_nearly_so_where_they_meet() -> None:
    error, covered = _convolved(overlap=4)
    assert (covered == 1).sum() > 500
    assert (covered > 1).sum() > 500
    assert error[covered == 1].max() < 1e-6  # farther than the radius from any seam
    hard, _ = _convolved(overlap=0)
    assert hard.max() > 0.2  # without overlap the seams show
    assert error.max() < hard.max() / 3


@pytest.mark.parametrize(("tile", "overlap"), [(8, 8), (8, 9), (8, -1), (0, 0)])
def test_an_overlap_has_to_be_smaller_than_the_tile(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=f"expected 0 <= overlap < tile, got overlap {overlap} and tile {tile}"):
        tiled(lambda piece: piece, noise(1, 3, 4, 4), tile, overlap)


def test_gradients_flow_through_tiles() -> None:
    leaf = noise(1, 2, 21, 30).requires_grad_()
    (gradient,) = torch.autograd.grad(tiled(torch.square, leaf, 12, 5).sum(), leaf)
    torch.testing.assert_close(gradient, 2 * leaf.detach())


def test_tiles_are_summed_to_the_same_image_with_and_without_a_graph() -> None:
    images, calls = noise(1, 2, 21, 30), []

    def every_other(piece: Tensor) -> Tensor:
        calls.append(piece)
        return piece.square() if len(calls) % 2 else piece.detach().square()

    plain = tiled(torch.square, images, 12, 5)
    leaf = images.clone().requires_grad_()
    assert torch.equal(tiled(torch.square, leaf, 12, 5).detach(), plain)
    assert torch.equal(tiled(every_other, leaf, 12, 5).detach(), plain)


@pytest.mark.parametrize("at_once", [2, 3, 100])
def test_several_tiles_in_one_batch_give_the_same(at_once: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 5, padding=2).double().requires_grad_(False)
    images, shown, found = noise(3, 2, 21, 30).double(), [], []

    def run(batch: Tensor) -> Tensor:
        shown.append(len(batch))
        return torch.tanh(layer(batch))

    for many in (1, at_once):
        leaf = images.clone().requires_grad_()
        shown.clear()
        out = tiled(run, leaf, 12, 5, many)
        found.append((out.detach(), torch.autograd.grad(out.square().sum(), leaf)[0]))
        assert sum(shown) == 3 * 3 * 4  # images, rows, columns
        assert max(shown) == 3 * min(many, 12)
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="at_once: expected a whole number of tiles >= 1, got 0"):
        tiled(run, images, 12, 5, 0)


def test_tiles_can_be_differentiated_twice() -> None:
    leaf = noise(1, 1, 7, 9).double().requires_grad_()

    def run(images: Tensor) -> Tensor:
        return tiled(lambda piece: piece.pow(3), images, 4, 1, 2)

    assert torch.autograd.gradcheck(run, leaf)
    assert torch.autograd.gradgradcheck(run, leaf)


class _Work(TorchDispatchMode):
    """How many numbers the operations of a block write."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [one for one in (out if isinstance(out, tuple | list) else [out]) if isinstance(one, Tensor)]
        self.total += 0 if func.is_view else sum(one.numel() for one in made)
        return out


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_work_grows_with_the_pixels(order: int) -> None:
    work = []
    for side in (64, 256):
        leaf = noise(1, 1, side, side).requires_grad_(order > 0)
        with _Work() as counted:
            out = tiled(torch.square, leaf, 16, 4).sum()
            for _ in range(order):
                out = torch.autograd.grad(out, leaf, create_graph=True)[0].sum()
        work.append(counted.total)
    assert work[1] < 20 * work[0]  # 16 times the pixels, 18 the tiles; with a sum of whole images it is beyond 100


def test_a_tile_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected run to keep the size \[16, 16\], got \[32, 32\]"):
        tiled(lambda piece: piece.repeat_interleave(2, 2).repeat_interleave(2, 3), noise(1, 1, 30, 30), 16, 4)
