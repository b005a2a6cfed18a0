"""Checkpoints of a training: a nested tree of tensors and plain values in one safetensors file, written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import digest, write_atomically
from ..recipe import Recipe


def save_tree(file: Path, tree: Any) -> None:
    """Mappings, lists, tensors, numbers, texts and None; keys are texts or whole numbers."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_flat(tree, tensors))
    write_atomically(file, lambda part: save_file(tensors, part, metadata={"tree": plain}))


def save_state(file: Path, state: Mapping[str, Tensor]) -> None:
    """A state dict; names that share a tensor get one each."""
    from safetensors.torch import save_file

    kept = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    write_atomically(file, lambda part: save_file(kept, part))


def load_tree(file: Path) -> Any:
    """What `save_tree` wrote, on the CPU; ValueError for another or a damaged file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as found:
            plain = (found.metadata() or {}).get("tree")
            tensors = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file}: expected a checkpoint, got a damaged file: delete it to start anew ({error})") from error
    if plain is None:
        raise ValueError(f"{file}: expected a checkpoint of a training, got other safetensors")
    return _nested(json.loads(plain), tensors)


class Loose:
    """Buffers of a recipe that the state of its trained part leaves out: a checkpoint holds those that training has changed."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.before = {name: digest(tensor) for name, tensor in self._all()}

    def _all(self) -> list[tuple[str, Tensor]]:
        held = {id(tensor) for tensor in self.recipe.trained.state_dict(keep_vars=True).values()}
        return [(name, tensor) for name, tensor in self.recipe.named_buffers() if id(tensor) not in held]

    def changed(self) -> dict[str, Tensor]:
        """Those that differ from what they were at the start, by name."""
        return {name: tensor for name, tensor in self._all() if self.before.get(name) != digest(tensor)}

    def restore(self, buffers: Mapping[str, Tensor], device: torch.device) -> None:
        """Put them back."""
        for name, tensor in buffers.items():
            path, _, own = name.rpartition(".")
            buffers_there = self.recipe.get_submodule(path)._buffers
            there = buffers_there.get(own)
            if there is not None and (there.shape, there.dtype) == (tensor.shape, tensor.dtype):
                with torch.no_grad():
                    there.copy_(tensor)  # in its place: other modules may hold the same one
            else:
                buffers_there[own] = tensor.to(device)


def _flat(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The plain tree: {"t": name} for a tensor, {"m": [[key, value], ...]} for a mapping, {"l": [...]} for a list."""
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"t": name}
    if isinstance(value, dict):
        return {"m": [[key, _flat(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        return {"l": [_flat(inner, tensors) for inner in value]}
    return {"v": value}


def _nested(plain: Any, tensors: dict[str, Tensor]) -> Any:
    if "t" in plain:
        return tensors[plain["t"]]
    if "m" in plain:
        return {key: _nested(inner, tensors) for key, inner in plain["m"]}
    if "l" in plain:
        return [_nested(inner, tensors) for inner in plain["l"]]
    return plain["v"]
