"""Reading weights into a module: safetensors, or a foreign checkpoint of tensors only. Sizes are checked, all named."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .files import digest

_NESTED = ("state_dict", "params_ema", "params")  # where checkpoints keep their tensors, the first one found


def read_tensors(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of a PyTorch checkpoint that holds nothing else.

    A nested `state_dict`, `params_ema` or `params` is looked into and a `module.` prefix of all names dropped. Anything
    that would need pickled code raises.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a weights file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: expected a safetensors file, got something else or a damaged one: {error}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: refused, since it is no checkpoint of plain tensors: save its state_dict()") from error
    while isinstance(state, Mapping) and (inner := [state[k] for k in _NESTED if isinstance(state.get(k), Mapping)]):
        state = inner[0]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: expected a state_dict (names to tensors), got {type(state).__name__}")
    prefix = "module." if all(str(name).startswith("module.") for name in state) else ""
    return {str(name).removeprefix(prefix): tensor for name, tensor in state.items()}


def load_weights(module: nn.Module, file: str | Path, ignore: Iterable[str] = ()) -> None:
    """Fill `module` from `file`, strictly; parameters whose names start with one of `ignore` may be missing.

    Raises ValueError as `check_fit` does; the module is then unchanged.
    """
    tensors, skipped = read_tensors(file), tuple(ignore)
    wanted = {name: tensor for name, tensor in module.state_dict().items() if not (skipped and name.startswith(skipped))}
    needed = {name: one.shape for name, one in wanted.items() if name in tensors or not name.endswith("num_batches_tracked")}
    expected = f"{file}: expected weights for {type(module).__name__}"
    check_fit({name: one.shape for name, one in sorted(tensors.items())}, dict(sorted(needed.items())), expected)
    with torch.no_grad():
        for name in set(wanted) & set(tensors):
            wanted[name].copy_(tensors[name])


def check_fit(found: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]], expected: str, advice: str = "") -> None:
    """Raise ValueError that names missing, unknown and misshapen tensors, unless the shapes found are those wanted.

    The message begins with what was `expected` and ends with `advice`.
    """
    wrong = {
        "missing": [name for name in wanted if name not in found],
        "unknown": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} (expected {list(shape)}, got {list(found[name])})"
            for name, shape in wanted.items()
            if name in found and list(found[name]) != list(shape)
        ],
    }
    if any(wrong.values()):
        told = "; ".join(f"{k}: {', '.join(v[:4])}{' ...' if len(v) > 4 else ''}" for k, v in wrong.items() if v)
        raise ValueError(f"{expected}; {told}{advice}")


def fingerprint(module: nn.Module) -> str:
    """A SHA-256 over the names, shapes and values of a module's state: equal weights, equal print."""
    state = module.state_dict()
    names = torch.tensor(list("\n".join(state).encode()), dtype=torch.uint8)
    return digest(names, *state.values())
