"""Helpers for tests of what is written to and read from disk."""

import os
from pathlib import Path
from typing import Any


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def inside(folder: Path) -> list[str]:
    """The names of all that lies in `folder`, hidden files too, sorted."""
    return sorted(path.name for path in folder.iterdir())
