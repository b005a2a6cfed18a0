"""Image files: known pixels in every mode that people's folders hold, and a clear refusal of the rest."""

import stat
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, __version__

from robustrestore.data.image_file import ImageFileError, check_size, find_images, load_image, resize, save_image

OLD = int(__version__.split(".")[0]) < 13  # Pillow that cannot read TIFF in YCbCr, nor grey with its alpha multiplied in

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14  # [H, W, C], all values differ


def expected(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "PNG"])
def test_rgb_is_read_exactly(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RGB).save(tmp_path / f"x.{suffix}")
    image = load_image(str(tmp_path / f"x.{suffix}"))
    assert image.dtype == torch.float32
    assert image.shape == (3, 2, 3)
    assert image.is_contiguous()
    assert torch.equal(image, expected(RGB))


def test_agrees_with_torchvision(tmp_path: Path) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    picture.save(tmp_path / "x.jpg")
    assert torch.equal(load_image(tmp_path / "x.jpg"), functional.to_tensor(Image.open(tmp_path / "x.jpg")))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255  # as stored: left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise, which moves left to top
    Image.fromarray(pixels).save(tmp_path / f"x.{suffix}", exif=exif)
    image = load_image(tmp_path / f"x.{suffix}")
    assert image.shape == (3, 32, 16)
    assert image[:, :12].min() > 0.9
    assert image[:, 20:].max() < 0.1


def test_grey_gets_three_channels(tmp_path: Path) -> None:
    Image.fromarray(RGB[..., 0]).save(tmp_path / "x.png")
    image = load_image(tmp_path / "x.png")
    assert torch.equal(image, expected(RGB[..., :1]).repeat(3, 1, 1))
    image[0] += 1  # real memory, not one channel seen three times
    assert not torch.equal(image[0], image[1])


def test_one_bit_and_palette(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "bit.png")
    assert load_image(tmp_path / "bit.png")[:, 0].tolist() == [[0, 1]] * 3
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png")
    assert load_image(tmp_path / "palette.png")[:, 0].tolist() == [[1, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize(("kind", "suffix"), [(np.uint16, "png"), (np.uint16, "tif"), (np.int32, "tif")])
def test_sixteen_bit_grey(tmp_path: Path, kind: type, suffix: str) -> None:
    values: np.ndarray = np.array([[0, 257, 32768, 65535]]).astype(kind)
    Image.fromarray(values).save(tmp_path / f"x.{suffix}")
    image = load_image(tmp_path / f"x.{suffix}")
    assert image.shape == (3, 1, 4)
    torch.testing.assert_close(image[1, 0], torch.tensor([0, 1 / 255, 32768 / 65535, 1]))


def test_sixteen_bit_grey_is_turned_by_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # half a turn
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "x.png", exif=exif)
    assert load_image(tmp_path / "x.png")[0, 0].tolist() == [1, 0]


@pytest.mark.parametrize("values", [np.array([[0, 70000]], np.int32), np.array([[-1, 5]], np.int32)])
def test_values_beyond_sixteen_bits_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(ImageFileError, match=r"x\.tif: expected 16-bit values 0\.\.65535, got"):
        load_image(tmp_path / "x.tif")


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5]], np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ImageFileError, match="floats of unknown range"):
        load_image(tmp_path / "x.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(RGB).convert("L").convert(mode) if mode == "LA" else Image.fromarray(RGB).convert(mode)
    picture.save(tmp_path / "opaque.png")
    assert torch.equal(load_image(tmp_path / "opaque.png"), expected(np.asarray(picture.convert("RGB"))))
    alpha = picture.getchannel("A")
    alpha.putpixel((0, 0), 254)
    picture.putalpha(alpha)
    picture.save(tmp_path / "glass.png")
    with pytest.raises(ImageFileError, match=r"glass\.png: .*flatten it"):
        load_image(tmp_path / "glass.png")


def _unreadable(file: Path) -> None:
    with pytest.raises(ImageFileError, match=rf"{file.name}: expected a whole image file, got"):
        load_image(file)


@pytest.mark.parametrize(("alpha", "opaque"), [(255, True), (128, False)])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_premultiplied_alpha_in_tiff(tmp_path: Path, mode: str, alpha: int, opaque: bool) -> None:
    Image.new(mode, (2, 2), (100, alpha) if mode == "LA" else (100, 100, 100, alpha)).save(tmp_path / "x.tif")
    unassociated, associated = (struct.pack("<HHIHH", 338, 3, 1, kind, 0) for kind in (2, 1))  # the ExtraSamples entry
    (tmp_path / "x.tif").write_bytes((tmp_path / "x.tif").read_bytes().replace(unassociated, associated))
    if OLD and mode == "LA":
        return _unreadable(tmp_path / "x.tif")
    if opaque:
        torch.testing.assert_close(load_image(tmp_path / "x.tif"), torch.full((3, 2, 2), 100 / 255))
    else:
        with pytest.raises(ImageFileError, match="flatten it"):
            load_image(tmp_path / "x.tif")
    with Image.open(tmp_path / "x.tif") as picture:
        assert picture.mode == ("La" if mode == "LA" else "RGBA")  # Pillow undoes the product for RGB by itself


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16", "1"])
def test_a_transparent_colour_counts_only_if_a_pixel_has_it(tmp_path: Path, mode: str) -> None:
    picture = Image.new(mode, (2, 1))  # all pixels 0
    if mode == "P":
        picture.putpalette([9, 9, 9, 200, 200, 200])
    zero, other = ((0, 0, 0), (1, 2, 3)) if mode == "RGB" else (0, 255 if mode == "1" else 1)
    picture.save(tmp_path / "unused.png", transparency=other)
    assert load_image(tmp_path / "unused.png").shape == (3, 1, 2)
    picture.save(tmp_path / "used.png", transparency=zero)
    with pytest.raises(ImageFileError, match="flatten it"):
        load_image(tmp_path / "used.png")


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    red, green, blue = load_image(tmp_path / "x.jpg").mean((1, 2)).tolist()
    assert red > 0.95
    assert green < 0.05
    assert blue < 0.05


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
def test_other_colour_spaces_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4), (255, 128, 128)).save(tmp_path / "x.tif")
    if OLD and mode == "YCbCr":
        return _unreadable(tmp_path / "x.tif")
    with Image.open(tmp_path / "x.tif") as picture:
        assert picture.mode == mode
    assert load_image(tmp_path / "x.tif").min() > 0.98


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_several_frames_are_refused_and_one_is_not(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    first.save(tmp_path / f"one.{suffix}")
    assert load_image(tmp_path / f"one.{suffix}").mean((1, 2)).tolist() == pytest.approx([1, 0, 0], abs=0.02)
    first.save(tmp_path / f"two.{suffix}", save_all=True, append_images=[second])
    with pytest.raises(ImageFileError, match=rf"two\.{suffix}: expected one image, got 2 frames"):
        load_image(tmp_path / f"two.{suffix}")


def test_the_first_image_of_an_mpo_photo_counts(tmp_path: Path) -> None:
    first, preview = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (8, 8), "blue")
    first.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[preview])
    with Image.open(tmp_path / "x.jpg") as check:
        assert check.format == "MPO"
        assert getattr(check, "n_frames", 1) == 2
    image = load_image(tmp_path / "x.jpg")
    assert image.shape == (3, 16, 16)
    assert image[0].min() > 0.9


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "gif"])
@pytest.mark.parametrize("share", [0.6, 0.05, 0.0])
def test_truncated_files_name_the_file(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageFileError, match=rf"x\.{suffix}: expected a whole image file, got \w+"):
        load_image(path)


def test_other_files_and_missing_ones(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(ImageFileError, match=r"x\.png: .*UnidentifiedImageError") as caught:
        load_image(tmp_path / "x.png")
    assert isinstance(caught.value, ValueError)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        load_image(tmp_path / "gone.png")


@pytest.mark.parametrize("suffix", ["png", "PNG", "tif", "tiff", "webp"])
def test_saving_and_loading_gives_the_same_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    save_image(expected(RGB), path)
    assert torch.equal(load_image(path), expected(RGB))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_saving_as_jpeg_has_quality_95(tmp_path: Path) -> None:
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64)
    save_image(ramp, tmp_path / "x.jpeg")
    Image.fromarray((ramp * 255).round().byte().permute(1, 2, 0).numpy()).save(tmp_path / "y.jpg", quality=95)
    assert (tmp_path / "x.jpeg").read_bytes() == (tmp_path / "y.jpg").read_bytes()
    assert (load_image(tmp_path / "x.jpeg") - ramp).abs().max() < 0.02


def test_saving_rounds_and_forgives_rounding_errors(tmp_path: Path) -> None:
    values = torch.tensor([0.6, 1.4, 254.4, 254.6]) / 255
    image = torch.cat([values, torch.tensor([-1e-6, 1 + 1e-6])]).expand(3, 1, 6).clone().requires_grad_()
    save_image(image, tmp_path / "x.png")
    assert np.asarray(Image.open(tmp_path / "x.png"))[0, :, 0].tolist() == [1, 1, 254, 255, 0, 255]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_saving_takes_any_floating_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    save_image(torch.full((3, 2, 2), 0.5, dtype=dtype), tmp_path / "x.png")
    torch.testing.assert_close(load_image(tmp_path / "x.png"), torch.full((3, 2, 2), 128 / 255))


@pytest.mark.parametrize(
    ("image", "error", "says"),
    [
        (torch.zeros(1, 3, 4, 4), ValueError, r"shape \[3, H, W\], got \[1, 3, 4, 4\]"),
        (torch.zeros(1, 4, 4), ValueError, r"got \[1, 4, 4\]"),
        (torch.full((3, 4, 4), 1.5), ValueError, r"values in \[0, 1\], got \[1.5, 1.5\]"),
        (torch.full((3, 4, 4), torch.nan), ValueError, "got .*nan"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), TypeError, r"got torch.uint8: use image.float\(\) / 255"),
        (np.zeros((3, 4, 4)), TypeError, "got ndarray"),
    ],
)
def test_saving_something_else_is_refused(tmp_path: Path, image: object, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        save_image(image, tmp_path / "x.png")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.gif", "x"])
def test_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"expected one of the suffixes \.png"):
        save_image(torch.zeros(3, 2, 2), tmp_path / name)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_image(expected(RGB), tmp_path / "x.png")

    def full_disk(self: Image.Image, path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="disk full"):
        save_image(torch.zeros(3, 2, 2), tmp_path / "x.png")
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
    assert torch.equal(load_image(tmp_path / "x.png"), expected(RGB))


@pytest.mark.skipif(sys.platform == "win32", reason="no permission bits")
def test_saved_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_image(expected(RGB), tmp_path / "x.png")
    assert stat.S_IMODE((tmp_path / "x.png").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_find_images(tmp_path: Path) -> None:
    wanted = ["a/z.JPG", "b.Png", "b/1.webp", "b/c/2.TIFF", "c.jpeg", "d.bmp", "e.tif"]
    for name in [*wanted, "note.txt", ".hidden.png", ".cache/x.png", "b/._y.png", "x.png/inside.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images(tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in found) == sorted(wanted)
    assert found == sorted(found)


def test_find_images_works_below_a_hidden_folder(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.png").touch()
    assert find_images(str(tmp_path / ".cache")) == [tmp_path / ".cache" / "x.png"]


def test_find_images_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: expected a folder"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "x.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"expected images \(\.png"):
        find_images(tmp_path)


def test_resize_averages_and_keeps_its_own_size() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(32).expand(3, 64, 64)
    assert resize(stripes, None) is stripes
    assert resize(stripes, (64, 64)) is stripes
    small = resize(stripes, (8, 16))
    assert small.shape == (3, 8, 16)
    torch.testing.assert_close(small[..., 2:-2], torch.full((3, 8, 12), 0.5))  # without antialiasing it would alias


@pytest.mark.parametrize("size", [(0, 4), (4,), (4, 4, 4), (4.0, 4), 4, "44"])
def test_bad_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"expected size as \(height, width\)"):
        check_size(size)
