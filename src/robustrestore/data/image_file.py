"""Image files as float32 RGB tensors [3, H, W] in [0, 1]: read, written, found and resized."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..files import write_atomically

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
TOLERANCE = 1e-4
_WRITERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95}),
    ".jpeg": ("JPEG", {"quality": 95}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".webp": ("WEBP", {"lossless": True}),
}


class ImageFileError(ValueError):
    """A file that is there but is not one whole, opaque, still image; the message names the file and says why."""


def load_image(path: str | Path) -> Tensor:
    """Any still image that Pillow reads, upright (EXIF), as float32 RGB [3, H, W] in [0, 1].

    Grey becomes three equal channels, 16-bit grey is divided by 65535, a fully opaque alpha channel is dropped. Raises
    ImageFileError for a damaged file, real transparency, several frames or values of unknown range; OSError without it.
    """
    image = open_upright(path)
    if image.mode.startswith("I"):
        return _grey16(image, path).repeat(3, 1, 1)
    if image.mode == "F":
        raise ImageFileError(f"{path}: expected integer pixels, got floats of unknown range: save it with 8 or 16 bits")
    pixels = np.array(_opaque(image, path))
    return torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format) / 255


def load_ids(path: str | Path) -> Tensor:
    """An image of class ids (8 bits, grey or with a palette) as int64 [H, W], ids as they are. Errors as in `load_image`."""
    image = open_upright(path)
    if image.mode not in ("L", "P"):
        raise ImageFileError(f"{path}: expected 8-bit class ids, got mode {image.mode}: turn colours into ids first")
    return torch.from_numpy(np.array(image)).long()


def save_image(image: Tensor, path: str | Path) -> None:
    """Write [3, H, W] in [0, 1], rounded to 8 bits, in one move, as png, jpg, jpeg, tif, tiff or webp by suffix.

    JPEG has quality 95, the other formats lose nothing. Raises ValueError or TypeError for another suffix, shape, dtype
    or range.
    """
    from PIL import Image

    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        known = ", ".join(_WRITERS)
        raise ValueError(f"{path}: expected one of the suffixes {known}, got {path.suffix!r}: rename the file")
    _check(image)
    pixels = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    kind, options = _WRITERS[path.suffix.lower()]
    write_atomically(path, lambda part: Image.fromarray(pixels.numpy()).save(part, kind, **options))


def find_images(folder: str | Path) -> list[Path]:
    """All image files below `folder`, sorted; hidden files and folders are skipped. FileNotFoundError if none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder of images, got none: check the path")
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    shown = sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    if not shown:
        raise FileNotFoundError(f"{folder}: expected images ({' '.join(SUFFIXES)}), got none: check the path")
    return shown


def open_upright(path: str | Path) -> "Image.Image":
    """The decoded Pillow image in its own mode, EXIF orientation applied. Errors as in `load_image`."""
    from PIL import Image, ImageOps

    with Path(path).open("rb") as file:
        try:
            image = Image.open(file)
            # MPO is a camera's JPEG with previews or a gain map behind it, not an animation: its first image counts.
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            image.load()
            upright = ImageOps.exif_transpose(image)
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            why = f"{type(error).__name__}: {error}"
            raise ImageFileError(f"{path}: expected a whole image file, got {why}: replace or convert it") from error
    if frames > 1:
        raise ImageFileError(f"{path}: expected one image, got {frames} frames or pages: save one of them alone")
    return upright


def check_size(size: tuple[int, int] | None) -> None:
    """Raise ValueError unless `size` is None or (height, width), both at least 1."""
    if size is None:
        return
    if not isinstance(size, tuple | list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"expected size as (height, width) in pixels or None, got {size!r}: pass two integers > 0")


def resize(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """[3, H, W] to `size` (height, width), bilinear with antialiasing; unchanged for None or its own size."""
    if size is None or image.shape[-2:] == tuple(size):
        return image
    return F.interpolate(image[None], size, mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)


def _opaque(image: "Image.Image", path: str | Path) -> "Image.Image":
    """As RGB; refused if a pixel is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")  # Pillow goes from La to LA alone
    if rgba.getchannel("A").getextrema()[0] != 255:
        raise _transparent(path)
    return rgba.convert("RGB")


def _grey16(image: "Image.Image", path: str | Path) -> Tensor:
    """[1, H, W] in [0, 1] of a 16-bit grey image, whether Pillow holds it in 16 or in 32 bits."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        found = f"{values.min()}..{values.max()}"
        raise ImageFileError(f"{path}: expected 16-bit values 0..65535, got {found}: save it with 8 or 16 bits")
    if "transparency" in image.info and (values == image.info["transparency"]).any():
        raise _transparent(path)
    return torch.from_numpy(values.astype(np.float32) / np.float32(65535))[None]


def _transparent(path: str | Path) -> ImageFileError:
    return ImageFileError(f"{path}: expected opaque pixels, got transparent ones: flatten it onto a background first")


def _check(image: Tensor) -> None:
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"expected a floating tensor, got {kind}: use image.float() / 255")
    if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"expected an image of shape [3, H, W], got {list(image.shape)}: save one RGB image at a time")
    low, high = (float(value) for value in torch.aminmax(image.detach()))
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise ValueError(f"expected values in [0, 1], got [{low:.4g}, {high:.4g}]: undo the normalisation, or clamp")
