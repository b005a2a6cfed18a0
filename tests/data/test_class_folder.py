"""A sub-folder a class: numbers by sorted names, and errors that name what is wrong."""

from pathlib import Path

import pytest
import torch

import robustrestore as rr
from robustrestore.data.image_file import save_image


def put(path: Path, value: float, height: int = 4, width: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(torch.full((3, height, width), value), path)


def test_classes_are_numbered_by_the_sorted_names(tmp_path: Path) -> None:
    put(tmp_path / "zebra" / "a.png", 0.2)
    put(tmp_path / "ape" / "deep" / "b.png", 0.4, 8, 8)
    put(tmp_path / "ape" / "c.png", 0.6)
    folder = rr.data.ClassFolder(tmp_path, size=(4, 4))
    assert folder.classes == ["ape", "zebra"]
    assert [(round(float(image.mean()), 2), int(label)) for image, label in (folder[k] for k in range(3))] == [
        (0.6, 0),
        (0.4, 0),
        (0.2, 1),
    ]
    assert folder[1][0].shape == (3, 4, 4)
    assert folder[0][1].dtype == torch.int64


def test_images_beside_the_classes_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "ape" / "c.png", 0.6)
    put(tmp_path / "d.png", 0.6)
    with pytest.raises(ValueError, match="images beside them, such as d.png"):
        rr.data.ClassFolder(tmp_path)
