"""The images that the bundled prior and derain network learn from.

Natural photographs of a folder, if one is given (such as the test part of BSDS500, made public for research). The others are
free for any use: public-domain aerial imagery (UC Merced, from USGS), public-domain and CC0 pictures that scikit-image's
package carries, and images made by code: dead leaves (the occlusion model of Lee, Mumford and Huang, 2001) with gradients,
gratings, 1/f noise, lines and text. The photographs that the demo shows (astronaut, chelsea, coffee, rocket) are left out.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

TILE = 128
PICTURES = ("camera", "brick", "grass", "gravel", "coins", "text", "cell", "hubble_deep_field", "retina")


def tiles(image: Image.Image) -> list[np.ndarray]:
    """Non-overlapping TILE x TILE pieces."""
    pixels = np.asarray(image.convert("RGB"))
    rows, columns = pixels.shape[0] // TILE, pixels.shape[1] // TILE
    return [pixels[r * TILE : (r + 1) * TILE, c * TILE : (c + 1) * TILE] for r in range(rows) for c in range(columns)]


def aerial(root: Path, split: str = "train") -> list[np.ndarray]:
    """UC Merced at full size and, where JPEG left fewer marks, at half size."""
    found = []
    for path in sorted((root / split).rglob("*.jpg")):
        image = Image.open(path).convert("RGB")
        found += tiles(image)
        small = image.resize((max(TILE, image.width // 2), max(TILE, image.height // 2)), Image.Resampling.LANCZOS)
        found += tiles(small)
    return found


def photographs(root: Path) -> list[np.ndarray]:
    """Every photograph of a folder at full and at half size, cut from two opposite corners so that no border is lost."""
    found = []
    for path in sorted(root.rglob("*.jpg")):
        image = Image.open(path).convert("RGB")
        for one in (image, image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)):
            shifted = one.crop((one.width % TILE, one.height % TILE, one.width, one.height))
            found += tiles(one) + tiles(shifted)
    return found


def pictures() -> list[np.ndarray]:
    import skimage.data

    found = []
    for name in PICTURES:
        image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        while min(image.size) >= TILE:
            found += tiles(image)[:40]
            image = image.resize((image.width * 2 // 3, image.height * 2 // 3), Image.Resampling.LANCZOS)
    return found


@lru_cache(maxsize=1)
def _fields(size: int) -> np.ndarray:
    """A pool of 1/f^a noise fields, zero mean, unit variance."""
    rng = np.random.default_rng(7)
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    f[0, 0] = 1
    fields = [np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) / f**a).real for a in np.linspace(0.5, 2, 32)]
    return np.stack([(field - field.mean()) / field.std() for field in fields]).astype(np.float32)


def _spectrum_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """A field of the pool, shifted and mirrored at random."""
    field = np.roll(_fields(size)[rng.integers(32)], tuple(rng.integers(size, size=2)), (0, 1))
    return field[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]


def _fill(rng: np.random.Generator, colour: np.ndarray, size: int) -> Image.Image:
    """A textured sheet: a grating, 1/f noise or a gradient around a colour."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    kind = rng.integers(3)
    if kind == 0:
        sheet = np.sin(2 * np.pi * along * rng.uniform(5, 120))
        sheet = np.sign(sheet) if rng.random() < 0.4 else sheet
    else:
        sheet = _spectrum_noise(rng, size) if kind == 1 else along * 4 - 2
    tint = rng.uniform(5, 50) * rng.uniform(0.6, 1.4, 3)
    return Image.fromarray(np.clip(colour + sheet[..., None] * tint, 0, 255).astype(np.uint8))


def _shape(rng: np.random.Generator, draw: ImageDraw.ImageDraw, fill: object, size: int, low: float) -> None:
    """One leaf: an ellipse, a polygon, a line or a word; radii follow r^-3."""
    high = size * 0.6
    r = (low**-2 - rng.random() * (low**-2 - high**-2)) ** -0.5
    cx, cy = rng.uniform(-r / 2, size + r / 2, 2)
    kind = rng.random()
    if kind < 0.4:
        a, b = r * rng.uniform(0.4, 1, 2)
        draw.ellipse([cx - a, cy - b, cx + a, cy + b], fill=fill)
    elif kind < 0.85:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
        draw.polygon([(cx + r * np.cos(t), cy + r * np.sin(t)) for t in angles], fill=fill)
    elif kind < 0.96:
        t = rng.uniform(0, np.pi)
        end = (cx + 4 * r * np.cos(t), cy + 4 * r * np.sin(t))
        draw.line([(cx, cy), end], fill=fill, width=int(rng.integers(1, 9)))
    else:
        word = "".join(chr(c) for c in rng.integers(33, 127, rng.integers(2, 9)))
        draw.text((cx, cy), word, fill=fill, font_size=int(rng.integers(14, 60)))


def dead_leaves(rng: np.random.Generator, palette: np.ndarray, size: int = 512) -> Image.Image:
    """A canvas covered with leaves coloured from `palette` [K, 3], shrunk by two so that edges are soft."""
    canvas = Image.new("RGB", (size, size), tuple(int(v) for v in palette[rng.integers(len(palette))]))
    draw, low = ImageDraw.Draw(canvas), np.exp(rng.uniform(np.log(8), np.log(60)))
    for _ in range(int(rng.integers(60, 900))):
        colour = palette[rng.integers(len(palette))] + rng.normal(0, 12, 3)
        if rng.random() < 0.04:
            mask = Image.new("L", (size, size), 0)
            _shape(rng, ImageDraw.Draw(mask), 255, size, low)
            canvas.paste(_fill(rng, colour, size), mask=mask)
        else:
            _shape(rng, draw, tuple(int(v) for v in np.clip(colour, 0, 255)), size, low)
    if rng.random() < 0.3:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))
    pixels = np.asarray(canvas, dtype=np.float32)
    if rng.random() < 0.7:
        pixels = pixels * (1 + 0.2 * _spectrum_noise(rng, size)[..., None] * rng.random())
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return image.resize((size // 2, size // 2), Image.Resampling.LANCZOS)


def build(root: Path, canvases: int, seed: int, natural: Path | None = None) -> Tensor:
    """Every tile as uint8 [N, 3, TILE, TILE]; those of `natural` photographs three times, so that they are most of it."""
    rng = np.random.default_rng(seed)
    real = aerial(root)
    found = real + pictures() * 2 + (photographs(natural) * 3 if natural else [])
    for _ in range(canvases):
        source = real[rng.integers(len(real))].reshape(-1, 3).astype(np.float32)
        palette = source[rng.integers(len(source), size=24)]
        if rng.random() < 0.5:
            palette = np.clip((palette - palette.mean()) * rng.uniform(1, 2.5) + rng.uniform(60, 190), 0, 255)
        if rng.random() < 0.4:
            palette = rng.uniform(0, 255, (24, 3)) * rng.uniform(0.3, 1)
        found += tiles(dead_leaves(rng, palette))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()


def cached(root: Path, file: Path, canvases: int, seed: int, natural: Path | None = None) -> Tensor:
    """`build`, kept as one safetensors file beside the run."""
    from safetensors.torch import load_file, save_file

    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"tiles": build(root, canvases, seed, natural)}, file)
    return load_file(file)["tiles"]


def patches(corpus: Tensor, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Random crops [count, 3, size, size] in [0, 1], flipped and turned at random."""
    index = torch.randint(len(corpus), (count,), generator=generator)
    corner = torch.randint(0, TILE - size + 1, (count, 2), generator=generator).tolist()
    turns = torch.randint(0, 8, (count,), generator=generator).tolist()
    out = []
    for i, (top, left), turn in zip(index.tolist(), corner, turns, strict=True):
        patch = torch.rot90(corpus[i, :, top : top + size, left : left + size], turn % 4, (1, 2))
        out.append(patch.flip(2) if turn >= 4 else patch)
    return torch.stack(out).float() / 255
