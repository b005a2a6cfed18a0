"""A folder of images with a sub-folder for each class."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from robustrestore.data.image_file import check_size, find_images, load_image, resize


class ClassFolder(Dataset[tuple[Tensor, Tensor]]):
    """Items (image float32 [3, H, W] in [0, 1], class int64 []), the class numbered by the sorted names of the sub-folders.

    `size` (height, width) in pixels resizes bilinearly with antialiasing. `classes` holds the names, `paths` the files. Raises
    ValueError where there are no sub-folders with images; errors as in `find_images` and `load_image`.
    """

    def __init__(self, root: str | Path, size: tuple[int, int] | None = None) -> None:
        """Find the files; none is opened yet."""
        check_size(size)
        self.root, self.size = root, size
        paths = find_images(root)
        if flat := [path for path in paths if path.parent == Path(root)]:
            raise ValueError(f"{root}: expected a sub-folder for each class, got images beside them, such as {flat[0].name}")
        names = [path.relative_to(root).parts[0] for path in paths]
        self.classes = sorted(set(names))
        self.paths = [(path, self.classes.index(name)) for path, name in zip(paths, names, strict=True)]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One image and its class."""
        path, label = self.paths[index]
        return resize(load_image(path), self.size), torch.tensor(label)
