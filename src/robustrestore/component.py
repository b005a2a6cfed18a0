"""Component: a part whose constructor arguments are its settings, so that it prints, copies, saves and loads itself."""

import hashlib
import inspect
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from . import registry
from .files import sha256, write_atomically, write_text
from .modes import seeded

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KEYS = {"kind", "name", "settings"}


class Component:
    """Base of every part. A final class stores each `__init__` argument under its own name and gives a `name`.

    The convention is scikit-learn's (Buitinck et al., 2013). Root classes say `kind=...`, final ones `name=...`, in the
    class line; abstract ones say neither.
    """

    kind: ClassVar[str] = ""
    name: ClassVar[str | None] = None

    def __init_subclass__(cls, *, kind: str | None = None, name: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind is not None:
            cls.kind = kind
        cls.name = name
        if name is not None and not cls.kind:
            raise TypeError(f"{cls.__name__}: expected a part of some kind: derive it from Purifier, Restorer, Attack, ...")
        _keeps_the_contract(cls)
        if name is not None:
            registry.register(cls.kind, name, cls)

    @classmethod
    def names(cls) -> list[str]:
        """The names of all known parts of this kind, installed plug-ins included; imports none of them."""
        return [entry.name for entry in registry.entries(cls.kind)]

    @classmethod
    def named(cls, name: str) -> type[Self]:
        """The class registered under `name`; LookupError with the known names otherwise."""
        return registry.find(cls.kind, name)

    def settings(self) -> dict[str, Any]:
        """The constructor arguments that make this part again."""
        return {name: _plain(getattr(self, name)) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        defaults = {name: p.default for name, p in inspect.signature(type(self)).parameters.items()}
        shown = {name: value for name, value in self.settings().items() if not _usual(value, defaults[name])}
        return f"{type(self).__name__}({', '.join(f'{name}={_short(value)}' for name, value in shown.items())})"

    def hidden(self) -> list[Any]:
        """What acts and is not told by the settings, a function that a text names for one: results are bound to it too."""
        return []

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed; networks are shared with the original, not copied."""
        known = self.settings()
        if unknown := sorted(set(changes) - set(known)):
            raise TypeError(f"{type(self).__name__}: expected settings among {sorted(known)}, got {unknown}")
        self.check_replaced({name for name, value in changes.items() if not _equal(value, known[name])})
        with seeded(0):  # initial weights are drawn, and then replaced
            made = type(self)(**{**known, **changes})
        if isinstance(self, nn.Module) and isinstance(made, nn.Module):
            _hand_over(self, made, known)
        return made

    def check_replaced(self, names: set[str]) -> None:
        """Raise ValueError where settings of these names cannot change: for parts with state that was measured under them."""

    def config(self) -> dict[str, Any]:
        """The part as a nested JSON-able tree of kind, name and settings; foreign modules as dotted paths."""
        root = self if isinstance(self, nn.Module) else nn.Module()
        return _encode(self, {id(module): path for path, module in root.named_modules()})  # type: ignore[no-any-return]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and, for a part with weights of ours, `model.safetensors` into `folder`.

        Modules that are not components (the user's model) are left out, and handed back to `from_pretrained`.
        """
        from safetensors.torch import save_file

        tree = self.config()
        if isinstance(self, nn.Module):
            foreign = _prefixes(self, [self.get_submodule(path) for path in _foreign(tree)])
            kept = {k: v for k, v in self.state_dict().items() if not k.startswith(foreign)}
            state = {k: v.detach().cpu().clone().contiguous() for k, v in kept.items()}
            file = Path(folder) / WEIGHTS
            write_atomically(file, lambda part: save_file(state, part))
            tree["sha256"] = sha256(file)
        write_text(Path(folder) / CONFIG, json.dumps(tree, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path, modules: Mapping[str, nn.Module] | None = None) -> Self:
        """The part that `save_pretrained` wrote; `modules` hands back foreign modules by dotted path.

        Makes registered classes only, reads safetensors only. Comes in evaluation mode, foreign modules as they are. Raises
        FileNotFoundError, ValueError (damaged, changed or pickled files, another kind of part, weights that do not fit),
        KeyError (a foreign module is missing) or LookupError (an unknown part).
        """
        folder, given = Path(folder), dict(modules or {})
        tree = _read_config(folder)
        wanted = _foreign(tree)
        if missing := sorted(set(wanted) - set(given)):
            raise KeyError(
                f"{folder}: expected the modules {wanted}, missing {missing}: pass from_pretrained(folder, "
                f"{{{missing[0]!r}: your_module}})"
            )
        with seeded(0):  # initial weights are drawn, and then replaced
            made = _decode(tree, given)
        if not isinstance(made, cls):
            raise ValueError(f"{folder}: expected a saved {cls.__name__}, got {type(made).__name__}")
        if isinstance(made, nn.Module):
            _load_weights(made, folder, tree, [given[path] for path in wanted])
            theirs = {id(part) for path in wanted for part in given[path].modules()}
            for part in made.modules():
                part.training = part.training and id(part) in theirs
        return made


def _keeps_the_contract(cls: type) -> None:
    """Abstract or final: raise where a class overrides what its base owns, or is named and leaves its work unwritten."""
    for name in vars(cls):
        owners = [base for base in cls.__mro__[1:] if getattr(vars(base).get(name), "__final__", False)]
        if owners:
            raise TypeError(f"{cls.__name__}.{name}: expected it to stay that of {owners[0].__name__}: write `run` instead")
    inherited = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    missing = sorted(name for name, value in inherited.items() if getattr(value, "__isabstractmethod__", False))
    if cls.__dict__.get("name") is not None and missing:
        raise TypeError(f"{cls.__name__}: expected a named part to be whole, missing: {', '.join(missing)}")


def _hand_over(old: nn.Module, new: nn.Module, settings: Iterable[str]) -> None:
    """Let `new` share what `old` made for itself and is no setting: networks, parameters, buffers; and its mode."""
    new.training = old.training
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [(old._parameters, new._parameters), (old._buffers, new._buffers)]
    for own, others in pairs:
        for name in own.keys() & others.keys():
            if own[name] is None or others[name] is None:
                continue
            if name in old._non_persistent_buffers_set:  # made from settings: only its place is kept
                others[name] = others[name].to(own[name].device)
            elif own[name].shape == others[name].shape:
                others[name] = own[name]
    for name, child in old.named_children():
        if name in settings:
            continue
        shapes = [{k: v.shape for k, v in part.state_dict().items()} for part in (child, new.get_submodule(name))]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{type(old).__name__}: expected settings that fit its weights in {name}: make a new part instead")
        setattr(new, name, child)


def _plain(value: Any) -> Any:
    if isinstance(value, nn.ModuleList):  # a list first, a module second
        return list(value)
    return value


def _equal(value: Any, other: Any) -> bool:
    return value is other or (isinstance(value, str | int | float) and type(value) is type(other) and value == other)


def _usual(value: Any, default: Any) -> bool:
    """Whether a repr leaves a setting out: a switch or None as by default. Numbers always show: they name results."""
    return value is default and (value is None or isinstance(value, bool))


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        inside = ", ".join(_short(item) for item in value)
        many = f"{len(value)} values, SHA-256 {hashlib.sha256(inside.encode()).hexdigest()[:12]}"
        return f"[{inside if len(value) <= 8 else many}]"
    if isinstance(value, nn.Module) and not isinstance(value, Component):
        return type(value).__name__
    if not isinstance(value, float):
        return repr(value)
    grey, short = round(value * 255) if math.isfinite(value) else 0, f"{value:.6g}"
    if value == grey / 255 and len(f"{value:.12g}") > 9:
        return f"{grey}/255"
    return short if float(short) == value else repr(float(value))  # exact: equal reprs mean equal settings


def _encode(value: Any, paths: Mapping[int, str]) -> Any:
    if isinstance(value, Component):
        if value.name is None:
            raise ValueError(f"{type(value).__name__}: expected a registered part, got one without name=... in its class line")
        inside = {name: _encode(item, paths) for name, item in value.settings().items()}
        return {"kind": value.kind, "name": value.name, "settings": inside}
    if isinstance(value, nn.Module):
        if id(value) not in paths:
            raise ValueError(
                f"settings: expected a sub-module of the saved part, got a {type(value).__name__} that it does not hold: "
                "make the part a torch.nn.Module"
            )
        return {"module": paths[id(value)]}
    if isinstance(value, list | tuple):
        return [_encode(item, paths) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"settings: expected components, modules, lists or JSON values, got {type(value).__name__}")


def _decode(value: Any, modules: Mapping[str, nn.Module]) -> Any:
    if isinstance(value, list):
        return [_decode(item, modules) for item in value]
    if not isinstance(value, dict):
        return value
    if "module" in value:
        return modules[value["module"]]
    cls = registry.find(value["kind"], value["name"])
    given = {name: _decode(item, modules) for name, item in value["settings"].items()}
    try:
        return cls(**given)
    except TypeError as error:
        raise ValueError(f"{CONFIG}: settings of {value['kind']} {value['name']!r} do not fit: {error}") from error


def _foreign(tree: Any) -> list[str]:
    if isinstance(tree, list):
        return [path for item in tree for path in _foreign(item)]
    if not isinstance(tree, dict):
        return []
    if "module" in tree:
        return [tree["module"]]
    return [path for item in tree.get("settings", {}).values() for path in _foreign(item)]


def _prefixes(root: nn.Module, modules: Iterable[nn.Module]) -> tuple[str, ...]:
    """What the state of `modules` is called in that of `root`, under each path that leads to one of them."""
    wanted = {id(module) for module in modules}
    return tuple(f"{path}." for path, part in root.named_modules(remove_duplicate=False) if id(part) in wanted)


def _check(tree: Any, file: Path) -> None:
    """Raise unless `tree` is one that `_encode` makes."""
    if isinstance(tree, list):
        for item in tree:
            _check(item, file)
    if not isinstance(tree, dict) or (set(tree) == {"module"} and isinstance(tree["module"], str)):
        return
    if set(tree) != KEYS:
        raise ValueError(f"{file}: expected the keys kind, name and settings, got {sorted(tree)}")
    kinds = (type(tree["kind"]), type(tree["name"]), type(tree["settings"]))
    if kinds != (str, str, dict):
        raise ValueError(f"{file}: expected kind and name as texts and settings by name, got {[k.__name__ for k in kinds]}")
    for item in tree["settings"].values():
        _check(item, file)


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{folder}: expected a folder with {CONFIG}, written by save_pretrained")
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: expected JSON written by save_pretrained: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{file}: expected the keys kind, name and settings, got {type(tree).__name__}")
    _check({key: value for key, value in tree.items() if key != "sha256"}, file)
    return tree


def _load_weights(made: nn.Module, folder: Path, tree: Mapping[str, Any], foreign: Iterable[nn.Module]) -> None:
    from .weights import load_weights

    file = folder / WEIGHTS
    if not file.is_file():
        raise FileNotFoundError(f"{folder}: expected {WEIGHTS} beside {CONFIG}; pickled checkpoints are not read")
    if tree.get("sha256") != (found := sha256(file)):
        raise ValueError(f"{file}: expected SHA-256 {tree.get('sha256')}, got {found}: the file was changed; save it again")
    load_weights(made, file, ignore=_prefixes(made, foreign))
