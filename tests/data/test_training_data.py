"""Data for training: fields of pairs, of images degraded on the fly, of scenes; crops at one place; splits without overlap."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from toys import photos

from robustrestore.data import CamVid, Crops, Degraded, Fields, PairedFolder, Scenes
from robustrestore.data.image_file import ImageFileError, save_image
from robustrestore.degradations import POLED, GaussianNoise, Rain, StoredPSF, UnderDisplay, pseudo_hdr, tone_map


class _Listed(Dataset[object]):
    def __init__(self, items: list[object]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


def _photographs(count: int = 5, height: int = 24, width: int = 30) -> _Listed:
    return _Listed(list(photos(count, height, width)))


def _write(folder: Path, names: list[str], height: int = 6, width: int = 8) -> None:
    for part, shift in (("rain", 0.5), ("clean", 0.0)):
        for number, name in enumerate(names):
            (folder / part).mkdir(exist_ok=True)
            save_image(torch.full((3, height, width), shift + number / 10), folder / part / f"{name}.png")


def _ids(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(path)


def test_pairs_as_fields(tmp_path: Path) -> None:
    _write(tmp_path, ["a", "b"])
    folder = PairedFolder(tmp_path / "rain", tmp_path / "clean")
    assert len(folder) == 2
    item = folder[1]
    torch.testing.assert_close(item["images"] - item["clean"], torch.full((3, 6, 8), 0.5), atol=0.01, rtol=0)
    assert torch.equal(item["target"], item["clean"])
    (batch,) = DataLoader(PairedFolder(tmp_path / "rain", tmp_path / "clean", size=(3, 4)), batch_size=2)
    assert {name: tuple(field.shape) for name, field in batch.items()} == dict.fromkeys(
        ("images", "target", "clean"), (2, 3, 3, 4)
    )


def test_pairs_with_label_maps(tmp_path: Path) -> None:
    _write(tmp_path, ["a", "b"])
    ids = np.arange(48).reshape(6, 8)
    ids[0, 0] = 255
    for name in ("a", "b"):
        _ids(tmp_path / "labels" / f"{name}.png", ids)
    folders = [tmp_path / name for name in ("rain", "clean", "labels")]
    assert torch.equal(PairedFolder(*folders)[0]["target"], torch.from_numpy(ids))
    small = PairedFolder(*folders, size=(3, 4))[0]
    assert small["target"].dtype == torch.int64
    assert torch.equal(small["target"], torch.from_numpy(ids)[1::2, 1::2])  # the nearest, no mixture of ids
    _ids(tmp_path / "labels" / "a.png", ids[:, :4])
    with pytest.raises(ValueError, match=r"a\.png: expected the image's \[height, width\], got \[6, 8\] and \[6, 4\]"):
        PairedFolder(*folders, size=(3, 4))[0]
    save_image(torch.zeros(3, 6, 8), tmp_path / "labels" / "a.png")
    with pytest.raises(ImageFileError, match=r"a\.png: expected 8-bit class ids, got mode RGB"):
        PairedFolder(*folders)[0]


def test_a_partner_or_a_label_that_is_missing_is_named(tmp_path: Path) -> None:
    _write(tmp_path, ["a", "b"])
    _ids(tmp_path / "labels" / "a.png", np.zeros((6, 8)))
    with pytest.raises(ValueError, match=r"got 1 \(b\) only in .*rain and none only in .*labels"):
        PairedFolder(tmp_path / "rain", tmp_path / "clean", tmp_path / "labels")
    (tmp_path / "clean" / "a.png").unlink()
    with pytest.raises(ValueError, match=r"got 1 \(a\) only in .*rain"):
        PairedFolder(tmp_path / "rain", tmp_path / "clean")
    with pytest.raises(ValueError, match="expected size"):
        PairedFolder(tmp_path / "rain", tmp_path / "clean", size=(0, 3))


def test_every_image_under_every_degradation_the_same_each_time() -> None:
    rains = [Rain(seed=1), Rain.severity(5, seed=2)]
    photographs = _photographs(3)
    data = Degraded(photographs, rains)
    assert len(data) == 6
    for index in range(6):
        item, image = data[index], photographs[index // 2]
        assert torch.equal(item["clean"], image)
        assert torch.equal(item["target"], image)
        assert torch.equal(item["images"], rains[index % 2](image[None], [index // 2])[0])
        assert torch.equal(data[index]["images"], item["images"])
    assert torch.equal(data[-1]["images"], data[5]["images"])
    assert len(list(data)) == 6
    with pytest.raises(IndexError, match="expected a place below 6, got 6"):
        data[6]
    same = Degraded(_Listed([photographs[0]] * 2), Rain())
    assert not torch.equal(same[0]["images"], same[1]["images"])  # each image has its own rain


def test_workers_read_the_same_rain() -> None:
    data = Degraded(_photographs(4), Rain())
    alone, shared = (torch.cat([b["images"] for b in DataLoader(data, 2, num_workers=n)]) for n in (0, 2))
    assert torch.equal(alone, shared)


def test_camvid_in_the_rain(tmp_path: Path) -> None:
    for name in ("val", "valannot"):
        (tmp_path / name).mkdir()
    save_image(photos(1, 12, 16)[0], tmp_path / "val" / "x.png")
    _ids(tmp_path / "valannot" / "x.png", np.arange(192).reshape(12, 16) % 12)
    frames = CamVid(tmp_path, "val")
    item = Degraded(frames, Rain())[0]
    assert torch.equal(item["target"], frames[0][1])
    assert torch.equal(item["clean"], frames[0][0])
    assert torch.equal(item["images"], Rain()(frames[0][0][None])[0])


def test_scenes_have_highlights_and_a_display_makes_them_flare() -> None:
    photograph = torch.full((3, 61, 61), 0.3)
    photograph[:, 30, 30] = 1
    scenes = Scenes(_Listed([photograph, (photograph, 3)]))
    assert torch.equal(scenes[0], tone_map(pseudo_hdr(photograph[None]))[0])
    assert torch.equal(scenes[1], scenes[0])
    item = Degraded(scenes, UnderDisplay(POLED(size=41)))[0]
    assert torch.equal(item["clean"], scenes[0])
    plain = Degraded(_Listed([tone_map(photograph)]), UnderDisplay(POLED(size=41)))[0]["images"]
    assert float((item["images"] - plain)[:, 40:50, 30].amax(0).max()) > 0.15  # light of 101 spreads, light of 1 hardly


def test_formation_4_training_and_testing_share_no_scene_and_no_psf() -> None:
    scenes = _Listed([torch.full((3, 4, 4), k / 16) for k in range(15)])
    cameras = [UnderDisplay(POLED(size=5, seed=k)) for k in range(5)]
    seen = []
    for seed in range(4):
        train, test = Degraded.split(scenes, cameras, share=0.4, seed=seed)
        used = [
            ({float(item["clean"].max()) for item in part}, {c.psf.seed for c in part.degradations}) for part in (train, test)
        ]
        assert not used[0][0] & used[1][0]
        assert not used[0][1] & used[1][1]
        assert [(len(images), len(psfs)) for images, psfs in used] == [(9, 3), (6, 2)]
        assert (len(train), len(test)) == (27, 12)
        seen.append((frozenset(used[1][0]), frozenset(used[1][1])))
    assert len(set(seen)) == 4
    again = Degraded.split(scenes, cameras, share=0.4, seed=3)[1]
    assert {c.psf.seed for c in again.degradations} == seen[3][1]


def test_a_split_needs_two_of_each_and_no_twins() -> None:
    photographs = _photographs(3)
    for data, kinds, what in (
        (photographs, [Rain()], "degradations"),
        (Subset(photographs, [0]), [Rain(), Rain(seed=1)], "images"),
    ):
        with pytest.raises(ValueError, match=f"expected 2 {what} or more"):
            Degraded.split(data, kinds)
    with pytest.raises(ValueError, match="got two that are equal"):
        Degraded.split(photographs, [Rain(), GaussianNoise(), Rain()])
    kernels = [torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(k)) for k in (0, 1, 1)]
    cameras = [UnderDisplay(StoredPSF.of(kernel)) for kernel in kernels]
    assert len(Degraded.split(photographs, cameras[:2])) == 2  # one repr, two PSFs
    with pytest.raises(ValueError, match="got two that are equal"):
        Degraded.split(photographs, cameras)
    with pytest.raises(TypeError, match="degradations: expected a Degradation or several, got"):
        Degraded(photographs, [])


def test_crops_are_at_one_place_in_every_field() -> None:
    place = torch.arange(24.0 * 30).view(24, 30) / 1000
    clean = place.expand(3, 24, 30)
    data = Crops(
        _Listed([Fields(images=clean + 0.1, target=torch.arange(24 * 30).view(24, 30), clean=clean)]), (5, 7), flip=True
    )
    found, mirrored = set(), 0
    torch.manual_seed(0)
    for _ in range(200):
        item = data[0]
        assert item["images"].shape == (3, 5, 7)
        torch.testing.assert_close(item["images"] - 0.1, item["clean"])
        assert torch.equal(item["target"], item["clean"][0].mul(1000).round().long())
        step = int(item["target"][0, 1] - item["target"][0, 0])
        mirrored += step == -1
        found.add(int(item["target"].min()))
    assert 60 < mirrored < 140
    rows = {k // 30 for k in found}
    assert rows == set(range(20))
    assert {k % 30 for k in found} == set(range(24))
    torch.manual_seed(3)
    first = data[0]["target"]
    torch.manual_seed(3)
    assert torch.equal(data[0]["target"], first)


def test_crops_of_pairs_labels_and_whole_images() -> None:
    image = photos(1, 6, 8)[0]
    (batch,) = DataLoader(Crops(_Listed([(image, image), (photos(1, 9, 9)[0], photos(1, 9, 9)[0])]), (6, 8)), batch_size=2)
    assert torch.equal(batch["images"], batch["clean"])
    assert torch.equal(batch["images"][0], image)  # no flips unless asked
    labelled: Fields = Crops(_Listed([Fields(images=image, target=torch.tensor(4), clean=image)]), (2, 2))[0]
    assert labelled["target"] == 4
    assert isinstance(labelled["images"], Tensor)
    with pytest.raises(ValueError, match=r"item 0: expected at least \[7, 8\] pixels, got \[6, 8\]: take a smaller size"):
        Crops(_Listed([(image, image)]), (7, 8))[0]
    with pytest.raises(ValueError, match=r"size: expected \(height, width\) in pixels, got \(0, 8\)"):
        Crops(_Listed([]), (0, 8))
