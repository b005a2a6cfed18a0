"""Names to classes: parts made in this process and parts that installed packages announce, found lazily.

An installed package announces a part by an entry point in the group `robustrestore.<kind>`, for example

    [project.entry-points."robustrestore.purifiers"]
    median = "my_package:Median"

Our own parts are announced the same way, so names are listed without importing anything.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata

_classes: dict[tuple[str, str], type] = {}


@dataclass(frozen=True)
class Entry:
    """A registered part: what kind, which name, `module:Class`, and the package that it comes from."""

    kind: str
    name: str
    target: str
    package: str


@lru_cache(maxsize=1)
def _announced() -> dict[tuple[str, str], tuple[metadata.EntryPoint, str]]:
    found: dict[tuple[str, str], tuple[metadata.EntryPoint, str]] = {}
    for distribution in metadata.distributions():
        for point in distribution.entry_points:
            if not point.group.startswith("robustrestore."):
                continue
            key = (point.group.removeprefix("robustrestore."), point.name)
            package = distribution.metadata["Name"]
            if key in found and found[key][0].value != point.value:
                raise ValueError(
                    f"{key[0]} {key[1]!r}: announced by {found[key][1]} and by {package}: uninstall one of the two"
                )
            found[key] = (point, package)
    return found


def _target(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _one(first: str, second: str) -> bool:
    """Whether two `module:Class` mean one class, perhaps re-exported by its package."""
    (module, _, name), (other, _, called) = first.partition(":"), second.partition(":")
    return name == called and (module == other or f"{other}.".startswith(f"{module}."))


def register(kind: str, name: str, cls: type) -> None:
    """Give `cls` a name; a name that another class holds raises. The same class defined again (a notebook) replaces."""
    taken = _classes.get((kind, name))
    holder = _target(taken) if taken else None
    if holder is None and not cls.__module__.startswith("robustrestore."):  # ours load often: no look at the disk
        announced = _announced().get((kind, name))
        holder = announced[0].value if announced else None
    if holder is not None and not _one(holder, _target(cls)):
        raise ValueError(f"{kind} {name!r}: expected a free name, it belongs to {holder}: choose another name")
    _classes[kind, name] = cls


def entries(kind: str | None = None) -> list[Entry]:
    """Every known part, of one kind or of all, sorted; imports nothing."""
    found = {key: Entry(*key, point.value, package) for key, (point, package) in _announced().items()}
    for key, cls in _classes.items():
        found.setdefault(key, Entry(*key, _target(cls), "this process"))
    return [found[key] for key in sorted(found) if kind in (None, key[0])]


def find(kind: str, name: str) -> type:
    """The class of that name, imported if need be. An unknown name answers with the known ones."""
    if (kind, name) not in _classes:
        announced = _announced().get((kind, name))
        if announced is None:
            known = ", ".join(entry.name for entry in entries(kind)) or "none"
            raise LookupError(f"{kind}: no part is called {name!r}; known: {known}")
        point, package = announced
        try:
            point.load()
        except Exception as error:
            raise LookupError(f"{kind} {name!r} of package {package}: {point.value} failed to import: {error}") from error
        if (kind, name) not in _classes:
            raise LookupError(f'{kind} {name!r} of package {package}: {point.value} has no name="{name}" in its class line')
    return _classes[kind, name]
