"""Evidence: the counts that the certificates of a restored image follow from, in memory or in a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..files import digest, write_atomically


@dataclass(frozen=True, eq=False)
class Evidence:
    """`held`: tensors by name; `file`: a safetensors file with the others. Together: counts, start, width, and the target."""

    held: Mapping[str, Tensor] = field(default_factory=dict)
    file: Path | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All of them, read now; ValueError for a damaged file."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return {**({} if self.file is None else load_file(self.file)), **self.held}
        except SafetensorError as error:
            raise ValueError(f"{self.file}: expected counts, got a damaged file ({error})") from error

    def digest(self) -> str:
        """Of all of them, as a row of the report states it."""
        tensors = self.tensors()
        return digest(*(tensors[name] for name in sorted(tensors)))

    def save(self, file: Path) -> None:
        """All of them into one file."""
        from safetensors.torch import save_file

        tensors = {name: tensor.contiguous() for name, tensor in self.tensors().items()}
        write_atomically(file, lambda part: save_file(tensors, part))
