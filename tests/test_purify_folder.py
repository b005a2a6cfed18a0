"""A folder through stages: what would mix up or lose somebody's files is refused before anything is written."""

from pathlib import Path

import pytest
from toys import photos

import robustrestore as rr
from robustrestore.purify_folder import purify_folder

STAGES = [rr.purifiers.Blur()]


def _images(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        rr.data.save_image(photos(1)[0], folder / name)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("names", "source", "target", "message"),
    [
        (["in/deep/a.png"], "in/deep", "in", "in: expected a folder that does not hold the source"),
        (["in/a.png"], "in", ".", "expected a folder that does not hold the source"),
        (["in/b.png", "in/a.jpg", "out/a.png"], "in", "out", r"expected no images of others there, got .*out/a\.png"),
        (["in/a.jpg", "in/a.png", "in/a.jpg.png"], "in", "out", r"expected one result a file, got two for a\.jpg\.png"),
    ],
)
def test_folders_that_would_be_mixed_up(tmp_path: Path, names: list[str], source: str, target: str, message: str) -> None:
    before = _files(_images(tmp_path, *names))
    with pytest.raises(ValueError, match=message):
        purify_folder(tmp_path / source, tmp_path / target, STAGES)
    assert _files(tmp_path) == before


def test_a_target_below_the_source_and_one_with_other_images_are_fine(tmp_path: Path) -> None:
    _images(tmp_path, "a.jpg", "out/else.png")
    for written, skipped in ((1, 0), (0, 1)):
        outcome = purify_folder(tmp_path, tmp_path / "out", STAGES)
        assert (len(outcome.written), len(outcome.skipped), outcome.failed) == (written, skipped, [])
    assert sorted(_files(tmp_path / "out")) == [".purified.json", "a.png", "else.png"]
