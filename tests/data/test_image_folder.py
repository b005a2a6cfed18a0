"""Folders as datasets: order, sizes, pairs, and errors that list the names."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from robustrestore.data.image_file import save_image
from robustrestore.data.image_folder import ImageFolder, PairFolder


def put(path: Path, value: float, height: int = 4, width: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(torch.full((3, height, width), value), path)


def test_images_come_in_sorted_order_at_their_own_size(tmp_path: Path) -> None:
    put(tmp_path / "b.png", 1.0)
    put(tmp_path / "a.PNG", 0.0, 8, 8)
    put(tmp_path / "c" / "d.png", 0.2)
    folder = ImageFolder(tmp_path)
    assert len(folder) == 3
    assert [p.name for p in folder.paths] == ["a.PNG", "b.png", "d.png"]
    assert [tuple(folder[index].shape) for index in range(3)] == [(3, 8, 8), (3, 4, 6), (3, 4, 6)]
    assert torch.equal(folder[-1], torch.full((3, 4, 6), 51 / 255))


def test_one_size_makes_batches(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 0.2)
    put(tmp_path / "b.png", 0.6, 9, 5)
    (batch,) = DataLoader(ImageFolder(str(tmp_path), size=(3, 7)), batch_size=2)
    assert batch.shape == (2, 3, 3, 7)
    torch.testing.assert_close(batch.mean((1, 2, 3)), torch.tensor([0.2, 0.6]))


def test_bad_size_and_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder of images"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected size"):
        ImageFolder(tmp_path, size=(0, 3))
    with pytest.raises(ValueError, match="expected size"):
        PairFolder(tmp_path, tmp_path, size=(0, 3))


def test_pairs_match_by_relative_stem(tmp_path: Path) -> None:
    for number, name in enumerate(["2.x", "1", "sub/1"]):
        put(tmp_path / "rain" / f"{name}.png", 0.2 * number)
        put(tmp_path / "clean" / f"{name}.tif", 0.2 * number + 0.4)
    pairs = PairFolder(tmp_path / "rain", tmp_path / "clean")
    assert len(pairs) == 3
    names = [path.relative_to(tmp_path / "rain").as_posix() for path, _ in pairs.pairs]
    assert names == ["1.png", "2.x.png", "sub/1.png"]
    for index in range(3):
        degraded, clean = pairs[index]
        assert degraded.shape == clean.shape == (3, 4, 6)
        torch.testing.assert_close(clean - degraded, torch.full((3, 4, 6), 0.4))
    degraded, clean = PairFolder(tmp_path / "rain", tmp_path / "clean", size=(2, 2))[0]
    assert degraded.shape == clean.shape == (3, 2, 2)


def test_unmatched_names_are_listed_on_both_sides(tmp_path: Path) -> None:
    put(tmp_path / "rain" / "same.png", 0.5)
    put(tmp_path / "clean" / "same.png", 0.5)
    for number in range(7):
        put(tmp_path / "rain" / f"only{number}.png", 0.5)
    with pytest.raises(ValueError, match="only in") as caught:
        PairFolder(tmp_path / "rain", tmp_path / "clean")
    assert "7 (only0, only1, only2, only3, only4, ...) only in" in str(caught.value)
    assert "none only in" in str(caught.value)
    put(tmp_path / "clean" / "other.png", 0.5)
    with pytest.raises(ValueError, match=r"1 \(other\) only in .*clean: rename or remove"):
        PairFolder(tmp_path / "rain", tmp_path / "clean")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("rain/1.png", "rain/1.tif", "clean/1.png"):
        put(tmp_path / name, 0.5)
    with pytest.raises(ValueError, match=r"one file named '1', got 1\.png and 1\.tif"):
        PairFolder(tmp_path / "rain", tmp_path / "clean")


def test_a_pair_of_two_sizes_names_both_files(tmp_path: Path) -> None:
    put(tmp_path / "rain" / "1.png", 0.5)
    put(tmp_path / "clean" / "1.png", 0.5, 6, 4)
    for size in (None, (4, 4)):  # resizing would hide that the files do not belong together
        with pytest.raises(ValueError, match=r"got \[4, 6\] \(.*rain.*\) and \[6, 4\] \(.*clean"):
            PairFolder(tmp_path / "rain", tmp_path / "clean", size)[0]
