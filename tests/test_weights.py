"""Weights from files: what is read, what is refused without being run, and modules that a failure leaves alone."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from toys_ground import Trap

from robustrestore.weights import fingerprint, load_weights, read_tensors

STATE = {"a": torch.arange(6.0).view(2, 3), "b.c": torch.tensor(7), "h": torch.ones(2, dtype=torch.float16)}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors")
    same(read_tensors(tmp_path / "x.safetensors"), STATE)
    same(read_tensors(str(tmp_path / "x.safetensors")), STATE)


def prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


CHECKPOINTS: dict[str, Callable[[], Any]] = {
    "plain": lambda: STATE,
    "nested": lambda: {"epoch": 3, "optimizer": {"lr": 0.1}, "state_dict": STATE},
    "nested twice": lambda: {"state_dict": {"state_dict": STATE}},
    "params": lambda: {"params": STATE},
    "data parallel": lambda: prefixed(STATE),
    "nested data parallel": lambda: {"state_dict": prefixed(STATE), "best": 0.3},
    "parameters": lambda: {name: nn.Parameter(t, requires_grad=False) for name, t in STATE.items()},
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_of_tensors(tmp_path: Path, name: str) -> None:
    torch.save(CHECKPOINTS[name](), tmp_path / "x.pth")
    same(read_tensors(tmp_path / "x.pth"), STATE)


def test_a_part_that_is_called_module_keeps_its_name(tmp_path: Path) -> None:
    state = {"module.a": torch.zeros(1), "a": torch.ones(1)}
    torch.save(state, tmp_path / "x.pth")
    same(read_tensors(tmp_path / "x.pth"), state)


def test_the_old_format_of_torch_is_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    same(read_tensors(tmp_path / "x.pt"), STATE)


DUMPS: dict[str, Callable[[Any, Path], object]] = {
    "torch": lambda thing, file: torch.save(thing, file),
    "torch, old": lambda thing, file: torch.save(thing, file, _use_new_zipfile_serialization=False),
    "pickle": lambda thing, file: file.write_bytes(pickle.dumps(thing, protocol=2)),
}


@pytest.mark.parametrize("suffix", ["pth", "bin", "ckpt", "safetensors"])
@pytest.mark.parametrize("dump", DUMPS)
def test_code_is_refused_and_not_run(tmp_path: Path, dump: str, suffix: str) -> None:
    trap, file = tmp_path / "trapped", tmp_path / f"x.{suffix}"
    DUMPS[dump]({"state_dict": {"a": Trap(trap)}}, file)
    with pytest.raises(ValueError, match=rf"x\.{suffix}: (refused, since it is no checkpoint|expected a safetensors)"):
        read_tensors(file)
    assert not trap.exists()


def test_the_trap_would_have_worked(tmp_path: Path) -> None:
    torch.save(Trap(tmp_path / "trapped"), tmp_path / "x.pth")
    torch.load(tmp_path / "x.pth", weights_only=False)
    assert (tmp_path / "trapped").is_dir()


def test_whole_pickled_modules_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"refused, since it is no checkpoint of plain tensors: save its state_dict\(\)"):
        read_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.97])
def test_truncated_files(tmp_path: Path, suffix: str, kept: float) -> None:
    file, state = tmp_path / f"x.{suffix}", {"a": torch.arange(5000.0)}
    if suffix == "pth":
        torch.save(state, file)
    else:
        save_file(state, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=rf"x\.{suffix}: (refused|expected a safetensors file)"):
        read_tensors(file)


@pytest.mark.parametrize("thing", [torch.zeros(3), [torch.zeros(3)], {"a": torch.zeros(3), "note": "text"}, 5], ids=str)
def test_what_is_no_state_dict(tmp_path: Path, thing: object) -> None:
    torch.save(thing, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"expected a state_dict \(names to tensors\), got {type(thing).__name__}"):
        read_tensors(tmp_path / "x.pth")


def test_a_missing_file(tmp_path: Path) -> None:
    for name in ("x.safetensors", "x.pth", ""):
        with pytest.raises(FileNotFoundError, match="expected a weights file"):
            read_tensors(tmp_path / name)


class Net(nn.Module):
    def __init__(self, seed: int = 0, width: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm, self.last = nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def stored(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_weights_fill_a_module_in_place(tmp_path: Path) -> None:
    source, net = Net(1), Net(2)
    source.norm.running_mean += 3
    source.norm.num_batches_tracked += 5
    weight = net.first.weight
    load_weights(net, stored(tmp_path, source.state_dict()))
    same(net.state_dict(), source.state_dict())
    assert net.first.weight is weight
    assert weight.requires_grad
    assert net.norm.num_batches_tracked == 5


def test_counters_may_be_missing_and_precision_may_differ(tmp_path: Path) -> None:
    state = {name: t.half() for name, t in Net(1).state_dict().items() if "num_batches" not in name}
    net = Net(2)
    load_weights(net, stored(tmp_path, state))
    assert net.first.weight.dtype == torch.float32
    assert torch.equal(net.first.weight, state["first.weight"].float())


def without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name not in names}


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "missing": (lambda s: without(s, "last.bias"), r"expected weights for Net; missing: last\.bias$"),
    "unknown": (lambda s: {**s, "extra": torch.zeros(1)}, "expected weights for Net; unknown: extra$"),
    "shape": (
        lambda s: {**s, "last.bias": torch.zeros(2)},
        r"Net; of another shape: last\.bias \(expected \[1\], got \[2\]\)$",
    ),
    "all": (
        lambda s: {**without(s, "last.weight"), "x": torch.zeros(1), "last.bias": torch.zeros(2)},
        r"missing: last\.weight; unknown: x; of another shape: last\.bias \(expected \[1\], got \[2\]\)$",
    ),
    "many": (
        lambda s: {**s, **{f"x{k}": torch.zeros(1) for k in range(9)}},
        r"unknown: x0, x1, x2, x3 \.\.\.$",
    ),
    "nothing": (lambda s: {}, r"missing: first\.bias, first\.weight, last\.bias, last\.weight \.\.\.$"),
}


@pytest.mark.parametrize("name", WRONG)
def test_weights_that_do_not_fit_change_nothing(tmp_path: Path, name: str) -> None:
    change, message = WRONG[name]
    net = Net(2)
    before = state_of(net)
    with pytest.raises(ValueError, match=message):
        load_weights(net, stored(tmp_path, change(Net(1).state_dict())))
    same(net.state_dict(), before)


def test_ignored_parameters_may_be_missing_and_are_left_alone(tmp_path: Path) -> None:
    net, source = Net(2), Net(1)
    file = stored(tmp_path, without(source.state_dict(), "last.weight", "last.bias"))
    before = state_of(net)
    load_weights(net, file, ignore=["last."])
    assert torch.equal(net.first.weight, source.first.weight)
    assert torch.equal(net.last.weight, before["last.weight"])
    with pytest.raises(ValueError, match=r"missing: last\.bias, last\.weight"):
        load_weights(net, file, ignore=["las.", "first."])


def test_equal_weights_have_equal_fingerprints() -> None:
    assert fingerprint(Net(1)) == fingerprint(Net(1))
    assert fingerprint(Net(1)) != fingerprint(Net(2))
    assert fingerprint(Net(1).train()) == fingerprint(Net(1).eval())
    assert len(fingerprint(nn.Identity())) == 64


CHANGES: dict[str, Callable[[Net], object]] = {
    "one weight": lambda net: net.first.weight.data[0, 0].add_(1e-6),
    "a buffer": lambda net: net.norm.running_mean[0].add_(1),
    "a counter": lambda net: net.norm.num_batches_tracked.add_(1),
    "dtype": lambda net: net.double(),
    "shape": lambda net: setattr(net.first, "weight", nn.Parameter(net.first.weight.data.T.contiguous())),
    "name": lambda net: [setattr(net, "other", net.last), delattr(net, "last")],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_sees(change: str) -> None:
    net = Net(1)
    before = fingerprint(net)
    CHANGES[change](net)
    assert fingerprint(net) != before
