"""A journal gives back what was written, to the same evaluation of the same images only."""

import json
from pathlib import Path

import pytest
import torch
from toys_ground import inside

from robustrestore.journal import Journal

ABOUT = {"seed": 0, "attacks": ["PGD()"], "views": {"a": [1, 2.5]}, "note": None}


def full(folder: Path) -> Journal:
    journal = Journal(folder, ABOUT)
    journal.write(0, "abc", {"x": torch.arange(3.0)})
    return journal


def test_a_batch_comes_back_also_later(tmp_path: Path) -> None:
    full(tmp_path / "run")
    again = Journal(tmp_path / "run", json.loads(json.dumps(ABOUT)))
    found = again.read(0, "abc")
    assert found is not None
    assert list(found) == ["x"]
    assert torch.equal(found["x"], torch.arange(3.0))
    assert again.read(1, "abc") is None
    assert inside(tmp_path / "run") == ["about.json", "batch-000000.safetensors"]


def test_names_dtypes_and_shapes_are_kept(tmp_path: Path) -> None:
    x = torch.arange(6.0, requires_grad=True).view(2, 3)
    tensors = {
        "0001/mean IoU": x.T,
        "picture/00 input": (x * 40).byte(),
        "scalar": x.sum().double(),
        "half": x.bfloat16(),
        "none": x[:0],
        "again": x,
        "and again": x,
    }
    journal = Journal(tmp_path, ABOUT)
    journal.write(3, "abc", tensors)
    found = journal.read(3, "abc")
    assert found is not None
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor.detach()), name


def test_a_batch_is_written_over(tmp_path: Path) -> None:
    journal = full(tmp_path)
    journal.write(0, "def", {"y": torch.ones(1)})
    found = journal.read(0, "def")
    assert found is not None
    assert list(found) == ["y"]


@pytest.mark.parametrize(
    ("about", "differ"),
    [
        ({**ABOUT, "seed": 1}, r"\['seed'\]"),
        ({**ABOUT, "seed": 1, "attacks": []}, r"\['attacks', 'seed'\]"),
        ({**ABOUT, "views": {"a": [1, 3]}}, r"\['views'\]"),
        ({**ABOUT, "more": 1}, r"\['more'\]"),
        ({"seed": 0, "note": None, "views": ABOUT["views"]}, r"\['attacks'\]"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, about: dict[str, object], differ: str) -> None:
    full(tmp_path)
    with pytest.raises(ValueError, match=f"got one that differs in {differ}: choose another folder, or delete this one"):
        Journal(tmp_path, about)
    assert Journal(tmp_path, ABOUT).read(0, "abc") is not None  # the refusal left it as it was


def test_settings_are_compared_as_json(tmp_path: Path) -> None:
    Journal(tmp_path, {"views": ("a", "b"), "rate": float("nan")})
    Journal(tmp_path, {"rate": float("nan"), "views": ["a", "b"]})


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    journal = full(tmp_path)
    with pytest.raises(ValueError, match=r"batch-000000\.safetensors: expected batch 0 to hold the same images as before"):
        journal.read(0, "other")
    assert journal.read(0, "abc") is not None


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_batch_is_named(tmp_path: Path, content: bytes | None) -> None:
    journal = full(tmp_path)
    file = tmp_path / "batch-000000.safetensors"
    file.write_bytes(file.read_bytes()[:-4] if content is None else content)
    with pytest.raises(ValueError, match=r"batch-000000\.safetensors: .* got a damaged file: delete it"):
        journal.read(0, "abc")


def test_a_write_that_fails_leaves_no_batch(tmp_path: Path) -> None:
    journal = full(tmp_path)
    with pytest.raises(TypeError):
        journal.write(1, 5, {"x": torch.ones(2)})  # type: ignore[arg-type]
    assert journal.read(1, "abc") is None
    assert inside(tmp_path) == ["about.json", "batch-000000.safetensors"]
