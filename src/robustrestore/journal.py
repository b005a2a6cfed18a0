"""Journal: what an evaluation has done so far, a file a batch, so that it can be killed and taken up again."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from .files import write_atomically, write_text


class Journal:
    """Tensors by batch number under `folder`, bound to the settings `about`.

    Raises ValueError where the folder holds the journal of other settings, naming what differs.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        file, text = folder / "about.json", json.dumps(about, indent=2, sort_keys=True)
        if file.is_file():
            before, now = json.loads(file.read_text(encoding="utf-8")), json.loads(text)
            differ = sorted(key for key in {*before, *now} if json.dumps(before.get(key)) != json.dumps(now.get(key)))
            if differ:
                raise ValueError(
                    f"{folder}: expected the results of these settings, got one that differs in {differ}: "
                    "choose another folder, or delete this one to start anew"
                )
        else:
            write_text(file, text)

    def _file(self, number: int) -> Path:
        return self.folder / f"batch-{number:06d}.safetensors"

    def read(self, number: int, inputs: str) -> dict[str, Tensor] | None:
        """What was written for a batch with the digest `inputs`, or None; ValueError if the inputs were others."""
        from safetensors import SafetensorError, safe_open

        place = self._file(number)
        if not place.is_file():
            return None
        try:
            with safe_open(place, framework="pt") as file:
                known = (file.metadata() or {}).get("inputs")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{place}: expected a finished batch, got a damaged file: delete it ({error})") from error
        if known != inputs:
            raise ValueError(
                f"{place}: expected batch {number} to hold the same images as before, it does not: "
                "the data or their order changed; choose another folder"
            )
        return tensors

    def write(self, number: int, inputs: str, tensors: dict[str, Tensor]) -> None:
        """Keep a finished batch, in one move."""
        from safetensors.torch import save_file

        kept = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        write_atomically(self._file(number), lambda part: save_file(kept, part, metadata={"inputs": inputs}))
