"""Parts, data and models by a line of text, as the command line takes them."""

import ast
import importlib
import operator
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from . import registry
from .component import Component

MODELS = "street, derain, timm:NAME, torchvision:NAME or package.module:callable"
_ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


@dataclass(frozen=True)
class _Known:
    """What a text may mean: parts, those of `kind` first, and things that already have a name."""

    kind: str
    names: Mapping[str, Any] = field(default_factory=dict)


def value(text: str, kind: str = "", names: Mapping[str, Any] | None = None) -> Any:
    """What `text` describes: a part as in `part`, a number, a text or a list of these; `names` stand for what they map to."""
    try:
        return _make(ast.parse(text.strip(), mode="eval").body, _Known(kind, names or {}))
    except (SyntaxError, TypeError) as error:
        raise ValueError(f"{text!r}: expected a part such as blur or pgd(linf(4/255), steps=20): {error}") from error


def part(text: str, kind: str, names: Mapping[str, Any] | None = None) -> Any:
    """The part that `text` describes: a registered name with settings, written as in Python.

    `blur`, `jpeg(quality=30)`, `pgd(linf(4/255), steps=20)`, `unet.derain`. A part that has a `default()` starts from it.
    Nothing but registered parts, numbers, texts and lists is understood; ValueError or LookupError otherwise. `names`: what
    else a name in the text may stand for.
    """
    made = value(text, kind, names)
    if not isinstance(made, Component) or made.kind != kind:
        raise ValueError(f"{text!r}: expected one of {kind}: {', '.join(e.name for e in registry.entries(kind))}")
    return made


def stage(text: str) -> Any:
    """The purifier or restorer that `text` describes."""
    name = text.strip().partition("(")[0].partition(".")[0].lower()
    restorers = {label for e in registry.entries("restorers") for label in (e.name, e.target.rpartition(":")[2].lower())}
    return part(text, "restorers" if name in restorers else "purifiers")


def _class(name: str, kind: str) -> type:
    wanted = name.lower()
    matches = [e for e in registry.entries() if wanted in (e.name, e.target.rpartition(":")[2].lower())]
    best = next((e for e in matches if e.kind == kind), matches[0] if matches else None)
    return registry.find(best.kind, best.name) if best is not None else registry.find(kind, wanted)


def _make(node: ast.expr, known: _Known) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_make(node.operand, known)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_make(node.left, known), _make(node.right, known))
    if isinstance(node, ast.List | ast.Tuple):
        return [_make(item, known) for item in node.elts]
    if isinstance(node, ast.Name) and node.id in known.names:
        return known.names[node.id]
    if isinstance(node, ast.Name):
        return _default(_class(node.id, known.kind))
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return _variant(_class(node.value.id, known.kind), node.attr, [], {})
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        args, given = [_make(item, known) for item in node.args], _given(node, known)
        return _variant(_class(node.func.value.id, known.kind), node.func.attr, args, given)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        cls = _class(node.func.id, known.kind)
        given = _given(node, known)
        if not node.args and given and hasattr(cls, "default"):
            return _default(cls).replace(**given)
        return cls(*[_make(item, known) for item in node.args], **given)
    raise ValueError(f"{ast.unparse(node)!r}: expected a part, a number, a text or a list")


def _given(node: ast.Call, known: _Known) -> dict[str, Any]:
    if any(k.arg is None for k in node.keywords):
        raise ValueError(f"{ast.unparse(node)!r}: expected settings by name, got **")
    return {str(k.arg): _make(k.value, known) for k in node.keywords}


def _default(cls: Any) -> Any:
    return cls.default() if hasattr(cls, "default") else cls()


def _variant(cls: Any, name: str, args: list[Any], given: dict[str, Any]) -> Any:
    """A ready-made part by the class method of that name (`unet.derain`, `worst.restoration(linf(4/255))`)."""
    known = [n for n, v in vars(cls).items() if isinstance(v, classmethod) and not n.startswith("_")]
    if name not in known:
        raise ValueError(f"{cls.__name__}.{name}: expected one of {known or 'no variants'}")
    return getattr(cls, name)(*args, **given)


class Photographs(Dataset[tuple[Tensor, Tensor]]):
    """The bundled photographs as pairs (image, image)."""

    def __init__(self) -> None:
        from .assets import photographs

        self.images = list(photographs().values())

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index][0], self.images[index][0]


def data(text: str, split: str = "val", size: Sequence[int] | None = None) -> tuple[Dataset[tuple[Tensor, Tensor]], str]:
    """A data set and the name of its task.

    `camvid:FOLDER`, `classes:FOLDER` (a sub-folder a class), `pairs:DEGRADED_FOLDER,CLEAN_FOLDER`, or `photographs` (bundled;
    image and target are the same).
    `size`: height and width; CamVid defaults to that of the bundled segmenter.
    """
    from .assets.bundled import STREET_SIZE
    from .data import CamVid, ClassFolder, PairFolder

    name, _, place = text.partition(":")
    shape = None if size is None else (int(size[0]), int(size[1]))
    if name == "camvid" and place:
        return CamVid(Path(place), cast(Any, split), shape or STREET_SIZE), "segmentation"
    if name == "classes" and place:
        return ClassFolder(Path(place), shape), "classification"
    if name == "pairs" and place.count(",") == 1:
        degraded, clean = place.split(",")
        return PairFolder(Path(degraded), Path(clean), shape), "restoration"
    if name == "photographs" and not place and shape is not None:
        raise ValueError("photographs: expected no size, they have one: leave --size out")
    if name == "photographs" and not place:
        return Photographs(), "restoration"
    raise ValueError(f"{text!r}: expected camvid:FOLDER, classes:FOLDER, pairs:DEGRADED,CLEAN or photographs")


class Batches:
    """(images, target) batches of a data set on a device, evenly spread where limited, spoiled by key."""

    def __init__(self, dataset: Any, limit: int | None, size: int, spoil: Any, device: str) -> None:
        count = len(dataset)
        kept = count if limit is None else min(limit, count)
        self.dataset, self.spoil, self.device = dataset, spoil, device
        picks = [k * count // kept for k in range(kept)]
        self.groups = [picks[k : k + size] for k in range(0, kept, size)]

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for group in self.groups:
            images, targets = zip(*(self.dataset[k] for k in group), strict=True)
            if len({image.shape for image in images}) > 1:
                sizes = sorted({f"{i.shape[-2]} x {i.shape[-1]}" for i in images})
                raise ValueError(f"--data: expected images of one size in a batch, got {sizes}: use --size or --batch 1")
            batch = torch.stack(images)
            spoiled = batch if self.spoil is None else self.spoil(batch, group)
            yield spoiled.to(self.device), torch.stack(targets).to(self.device)


def model_name(text: str | None, task: str) -> str:
    """The model's text, by default the bundled one for the task; ValueError where none is bundled."""
    bundled = {"segmentation": "street", "restoration": "derain"}
    if text is None and task not in bundled:
        raise ValueError(f"--model: expected one for {task}, {MODELS}: none is bundled")
    return text or bundled[task]


def model(text: str) -> nn.Module:
    """A model: `street` or `derain` (bundled), `timm:NAME`, `torchvision:NAME`, or `package.module:callable`, which is called.

    Those of timm and torchvision are classifiers with the weights that their makers publish, or `NAME,FILE` those of a file.
    """
    from . import assets, restorers

    if text == "street":
        return assets.street_segmenter()
    if text == "derain":
        return restorers.UNet.derain()
    module, _, name = text.partition(":")
    if not name:
        raise ValueError(f"{text!r}: expected {MODELS} that returns a torch.nn.Module")
    if module in ("timm", "torchvision"):
        from .integrations.classifiers import timm, torchvision

        kind, _, file = name.partition(",")
        return (timm if module == "timm" else torchvision)(kind, file or None)
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules of the current folder, as with python -m
    try:
        made = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{text!r}: expected an importable callable: {error}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"{text!r}: expected it to return a torch.nn.Module, got {type(made).__name__}")
    return made.eval()
