"""Folders of degraded images, of the same images clean, and of their label maps, as fields for training."""

from pathlib import Path

from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from robustrestore.data.fields import Fields
from robustrestore.data.image_file import check_size, load_ids, resize
from robustrestore.data.image_folder import PairFolder


class PairedFolder(Dataset[Fields]):
    """Degraded images and their clean originals, paired by relative path without suffix, as `Fields`.

    The target is the clean image, or, with `labels`, the label map of that name: 8-bit images of class ids, handed out as they
    are (255 is what our tasks ignore). `size` (height, width) resizes images as `PairFolder` does, labels to the nearest
    pixel. Raises ValueError that lists names without a partner, and, when read, for a pair or a label map of another size.
    """

    def __init__(
        self, degraded: str | Path, clean: str | Path, labels: str | Path | None = None, size: tuple[int, int] | None = None
    ) -> None:
        """Find and pair the files; none is opened yet."""
        check_size(size)
        self.folder, self.size = PairFolder(degraded, clean), size
        self.labels = None if labels is None else [label for _, label in PairFolder(degraded, labels).pairs]

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.folder)

    def __getitem__(self, index: int) -> Fields:
        """One pair, with its label map if there are labels."""
        images, clean = self.folder[index]
        target = None if self.labels is None else self._label(self.labels[index], images)
        images, clean = resize(images, self.size), resize(clean, self.size)
        return Fields(images=images, target=clean if target is None else target, clean=clean)

    def _label(self, file: Path, images: Tensor) -> Tensor:
        ids = load_ids(file)
        if ids.shape != images.shape[1:]:
            sizes = f"{list(images.shape[1:])} and {list(ids.shape)}"
            raise ValueError(f"{file}: expected the image's [height, width], got {sizes}: replace one of them")
        if self.size is None:
            return ids
        return F.interpolate(ids[None, None].float(), self.size, mode="nearest-exact")[0, 0].long()
