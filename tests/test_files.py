"""Files are whole or not there; fingerprints are those that sha256sum knows."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
import torch
from toys_ground import inside

from robustrestore.files import digest, sha256, write_atomically, write_text


def test_a_file_and_its_folders_appear(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "note.txt"
    write_text(file, "Grüße ✓\n")
    assert file.read_bytes() == "Grüße ✓\n".encode()
    assert inside(file.parent) == ["note.txt"]


def test_the_writer_fills_a_file_beside_of_the_same_suffix(tmp_path: Path) -> None:
    seen: list[Path] = []
    write_atomically(tmp_path / "x.png", lambda part: [seen.append(part), part.write_bytes(b"1")])
    assert seen[0].parent == tmp_path
    assert seen[0].suffix == ".png"
    assert seen[0].name != "x.png"
    assert (tmp_path / "x.png").read_bytes() == b"1"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [False, True])
def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path, error: type[BaseException], there: bool) -> None:
    file = tmp_path / "x.txt"
    if there:
        file.write_text("old")

    def half(part: Path) -> None:
        part.write_text("ne")
        raise error("disk full")

    with pytest.raises(error, match="disk full"):
        write_atomically(file, half)
    assert inside(tmp_path) == (["x.txt"] if there else [])
    if there:
        assert file.read_text() == "old"


def test_a_file_is_replaced(tmp_path: Path) -> None:
    for text in ("one", "two"):
        write_text(tmp_path / "x.txt", text)
    assert (tmp_path / "x.txt").read_text() == "two"
    assert inside(tmp_path) == ["x.txt"]


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_others_may_read_what_the_umask_allows(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "x.txt", "")
        assert os.umask(mask) == mask  # looked at, and put back
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.txt").stat().st_mode) == 0o666 & ~mask


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    big = os.urandom(1_000_003)
    (tmp_path / "x").write_bytes(big)
    assert sha256(tmp_path / "x") == hashlib.sha256(big).hexdigest()


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_digest_sees_values_of_every_dtype(dtype: torch.dtype) -> None:
    ones = torch.ones(2, 3, dtype=dtype)
    other = ones.clone()
    other[1, 2] = 0
    assert digest(ones) == digest(ones.clone())
    assert digest(ones) != digest(other)


def test_digest_sees_shape_dtype_order_and_number() -> None:
    x = torch.arange(6.0)
    found = [
        digest(x),
        digest(x.view(2, 3)),
        digest(x.int()),
        digest(x.int().view(torch.float32)),
        digest(x, x),
        digest(x[:3], x[3:]),
        digest(x[3:], x[:3]),
        digest(torch.tensor(0.0)),
        digest(torch.zeros(0)),
        digest(),
    ]
    assert len(set(found)) == len(found)


def test_digest_is_one_of_values_not_of_memory() -> None:
    x = torch.arange(6.0).view(2, 3)
    assert digest(x.T) == digest(x.T.contiguous())
    assert digest(x[:, ::2]) == digest(x[:, ::2].clone())
    assert digest(x.clone().requires_grad_()) == digest(x)
