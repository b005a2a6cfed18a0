"""CamVid streets in the rain: the data, the segmenter, the attackers and the rows that several tables have in common.

`held` gives what is measured on, `Weather` what is learnt from, `COLUMNS` who attacks, and `measured` a row a defence:

    street = streets.held(camvid)
    cells = streets.measured(streets.segmenter(), {"derain": rr.restorers.UNet.derain()}, street, streets.COLUMNS, folder)
    print(streets.rows(cells)["derain"]["rain"]["mean IoU"])  # value, low, high

Nothing of the validation frames is learnt from, and their rain has a seed that no training has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import robustrestore as rr
from robustrestore.data import Fields
from robustrestore.metrics import Statistics
from robustrestore.verdict import worst_case

SIZE = (96, 128)  # the smallest one tried: there the bundled segmenter keeps a mean IoU above 0.5 on dry frames
LEVEL, UNSEEN = 3, 1000  # how hard it rains; the seed of the rain that is measured in
DRY = 0.25  # the share of training images without rain
FRAMES, STEPS, BATCH = 24, 20, 8
TASK = rr.tasks.Segmentation()
Cells = dict[str, dict[str, dict[str, Statistics]]]  # defence, column, metric


@dataclass(frozen=True)
class Street:
    """Frames [N, 3, H, W] dry and in the rain, with their label maps [N, H, W]."""

    dry: Tensor
    rainy: Tensor
    target: Tensor

    def batches(self, weather: str) -> list[tuple[Tensor, Tensor]]:
        """(images, target) in the weather "dry" or "rain"."""
        images = {"dry": self.dry, "rain": self.rainy}[weather]
        return list(zip(images.split(BATCH), self.target.split(BATCH), strict=True))

    def to(self, device: str) -> "Street":
        """On another device."""
        return Street(self.dry.to(device), self.rainy.to(device), self.target.to(device))

    def some(self, count: int) -> "Street":
        """`count` of the frames, evenly spread."""
        places = [k * len(self.target) // count for k in range(count)]
        return Street(self.dry[places], self.rainy[places], self.target[places])


@dataclass(frozen=True)
class Column:
    """An attack, or None, the weather it meets and what the attacker differentiates: "adaptive", all of it, or "oblivious"."""

    name: str
    attack: rr.Attack | None
    weather: str = "rain"
    view: str = "adaptive"


class Weather(Dataset[Fields]):
    """Frames under rain that is drawn anew at each reading, from PyTorch's generator; the share `dry` has none."""

    def __init__(self, frames: Sequence[tuple[Tensor, Tensor]], rain: rr.degradations.Rain, dry: float = DRY) -> None:
        self.frames, self.rain, self.dry = frames, rain, dry

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, place: int) -> Fields:
        clean, target = self.frames[place]
        key = int(torch.randint(2**31, ()))
        wet = clean if float(torch.rand(())) < self.dry else self.rain(clean[None], [key])[0]
        return Fields(images=wet, target=target, clean=clean)


def frames(
    root: Path, split: str, size: tuple[int, int] = SIZE, count: int | None = None, shift: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """The frames of a split in memory, or `count` of them, evenly spread, from place `shift` on."""
    found = rr.data.CamVid(root, split, size)  # type: ignore[arg-type]
    number = len(found) if count is None else min(count, len(found))
    return [found[shift + k * len(found) // number] for k in range(number)]


def training(root: Path, size: tuple[int, int] = SIZE) -> Weather:
    """What every row learns from: the 367 training frames, a quarter of the readings dry."""
    return Weather(frames(root, "train", size), rr.degradations.Rain.severity(LEVEL, seed=0))


def held(root: Path, count: int = FRAMES, size: tuple[int, int] = SIZE, level: int = LEVEL, shift: int = 0) -> Street:
    """What every row is measured on: validation frames, evenly spread, dry and in rain that no training has seen.

    With a `shift` of 1 or 2 others, none of the default ones among them: to choose settings on.
    """
    images, target = (torch.stack(found) for found in zip(*frames(root, "val", size, count, shift), strict=True))
    return Street(images, rr.degradations.Rain.severity(level, seed=UNSEEN)(images), target)


def segmenter() -> nn.Module:
    """The bundled one, frozen; made for images of twice this size. In the layout that is faster on a CPU."""
    return rr.assets.street_segmenter().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def pairs(dry: Path, wet: Path, model: nn.Module, height: int) -> Street:
    """Other photographs, of the same name in two folders, without labels: the model's own answers on the dry ones stand in."""
    from robustrestore.data.image_file import find_images, load_image, resize

    images = [[load_image(place), load_image(wet / place.name)] for place in find_images(dry)]
    size = (height, round(height * images[0][0].shape[2] / images[0][0].shape[1] / 32) * 32)
    first, second = (torch.stack([resize(pair[k], size) for pair in images]) for k in (0, 1))
    with torch.no_grad():
        return Street(first, second, torch.cat([model(part).argmax(1) for part in first.split(BATCH)]))


def pgd(eps: float, steps: int = STEPS, weather: str = "rain", view: str = "adaptive") -> Column:
    """PGD on the cross-entropy, at eps of 255."""
    return Column(_named("PGD", eps, steps, weather, view), rr.attacks.PGD(rr.Linf(eps / 255), steps), weather, view)


def cos(eps: float, steps: int = STEPS, weather: str = "rain", view: str = "adaptive") -> Column:
    """CosPGD, at eps of 255: in a probe the strongest of seven attacks of as many steps, or as strong."""
    return Column(_named("CosPGD", eps, steps, weather, view), rr.attacks.CosPGD(rr.Linf(eps / 255), steps), weather, view)


def _named(name: str, eps: float, steps: int, weather: str, view: str) -> str:
    more = ("" if weather == "rain" else f", {weather}") + ("" if view == "adaptive" else f", {view}")
    return f"{name}-{steps} {eps:g}/255{more}"


BIM = Column("BIM-2 at 0.03", rr.attacks.BIM(rr.Linf(0.03), steps=2, step=0.01))
NO_ATTACK = (Column("dry", None, "dry"), Column("rain", None))
COLUMNS = (cos(4), cos(4, view="oblivious"), BIM)


def measured(model: nn.Module, stages: Mapping[str, rr.Stage], street: Street, asked: Sequence[Column], folder: Path) -> Cells:
    """The columns "dry" and "rain" without attack, and those asked for, of the model as "none" and of each stage before it.

    Resumable in `folder`. An attacker who does not know the defence attacks the model alone; for "none" both are the same.
    """
    cells: Cells = {}
    alike: dict[tuple[str, str], list[Column]] = {}
    for column in (*NO_ATTACK, *asked):
        alike.setdefault((repr(column.attack), column.weather), []).append(column)
    for (_, weather), group in alike.items():
        views = {name: rr.VIEWS[name] for name in dict.fromkeys(column.view for column in group)}
        report = rr.evaluate(
            rr.DefendedPipeline(model), street.batches(weather), TASK, [c.attack for c in group[:1] if c.attack is not None],
            views, stages, folder=folder / " and ".join(column.name.replace("/", " of ") for column in group),
        )  # fmt: skip
        for (defence, attack, view), table in report.statistics.items():
            for column in group:
                if (attack == "none") == (column.attack is None) and view in ("-", column.view):
                    cells.setdefault(defence, {})[column.name] = table
    return cells


def with_worst(row: Mapping[str, dict[str, Statistics]], name: str, among: Sequence[str]) -> dict[str, dict[str, Statistics]]:
    """The row with one more column: per image the worst of several."""
    return {**row, name: worst_case(TASK.metrics(), [row[column] for column in among])}


def rows(cells: Cells) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Defence, column, metric: [value, low, high], intervals at 95 % over images."""
    return {
        defence: {
            column: {m.name: [round(v, 5) for v in (m.value(t[m.name]), *m.interval(t[m.name]))] for m in TASK.metrics()}
            for column, t in row.items()
        }
        for defence, row in cells.items()
    }


def quality(stage: rr.Stage | None, street: Street) -> dict[str, Any]:
    """PSNR and SSIM of what a stage makes of the rain, against the dry frames: [value, low, high]."""
    with torch.no_grad():
        images = street.rainy if stage is None else torch.cat([stage(part) for part in street.rainy.split(BATCH)])
    found = {}
    for metric in rr.tasks.Restoration().metrics():
        table = metric.measure(images, street.dry).double().cpu().numpy()
        found[metric.name] = [round(v, 4) for v in (metric.value(table), *metric.interval(table))]
    return found
