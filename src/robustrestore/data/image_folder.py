"""Folders of images, and two folders of the same images in two states."""

from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from robustrestore.data.image_file import check_size, find_images, load_image, resize


class ImageFolder(Dataset[Tensor]):
    """Every image below a folder, in sorted order: items float32 [3, H, W] in [0, 1].

    `size` (height, width) in pixels resizes bilinearly with antialiasing. `paths` holds the files. Errors as in
    `find_images` and `load_image`.
    """

    def __init__(self, root: str | Path, size: tuple[int, int] | None = None) -> None:
        """Find the files; none is opened yet."""
        check_size(size)
        self.root, self.size = root, size
        self.paths = find_images(root)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """One image."""
        return resize(load_image(self.paths[index]), self.size)


class PairFolder(Dataset[tuple[Tensor, Tensor]]):
    """Degraded images with their clean originals: items (degraded, clean), each float32 [3, H, W] in [0, 1].

    Files pair by relative path without suffix, so `degraded/a/1.jpg` belongs to `clean/a/1.png`. `size` (height, width)
    in pixels resizes both. `pairs` holds the files. Raises ValueError for a file without partner, for two files of one
    name, and, when an item is read, for a pair of different image size.
    """

    def __init__(self, degraded: str | Path, clean: str | Path, size: tuple[int, int] | None = None) -> None:
        """Find and pair the files; none is opened yet."""
        check_size(size)
        self.degraded, self.clean, self.size = degraded, clean, size
        left, right = _by_stem(Path(degraded)), _by_stem(Path(clean))
        if left.keys() != right.keys():
            raise ValueError(
                f"expected the same names in both folders, got {_some(left.keys() - right.keys())} only in {degraded} "
                f"and {_some(right.keys() - left.keys())} only in {clean}: rename or remove these files"
            )
        self.pairs = [(left[stem], right[stem]) for stem in sorted(left)]

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One pair."""
        paths = self.pairs[index]
        degraded, clean = load_image(paths[0]), load_image(paths[1])
        if degraded.shape != clean.shape:
            sizes = " and ".join(f"{list(i.shape[1:])} ({p})" for i, p in zip((degraded, clean), paths, strict=True))
            raise ValueError(f"expected a pair of equal [height, width], got {sizes}: crop or resize one of the files")
        return resize(degraded, self.size), resize(clean, self.size)


def _by_stem(folder: Path) -> dict[str, Path]:
    """Relative path without suffix -> file."""
    found: dict[str, Path] = {}
    for path in find_images(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            both = f"{found[stem].name} and {path.name}"
            raise ValueError(f"{folder}: expected one file named {stem!r}, got {both}: remove one of them")
        found[stem] = path
    return found


def _some(names: set[str]) -> str:
    """Up to five of the names, for an error message."""
    listed = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} ({listed})" if names else "none"
