"""The parts of the PEARL benchmark: each yields what there is of it so far, again and again until it is whole."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pearl_rows as rows
import robustrestore as rr
import streets
from pearl_rows import AMA, BARE, DERAIN, LEARNT, NAA, OWN

BLUR, BLURRED = "blur", "derain only, then blur"


@dataclass(frozen=True)
class Run:
    """What the command line asked for, and the sets that all parts share."""

    camvid: Path
    out: Path
    full: bool = False
    seeds: int = 3
    device: str = "cpu"
    espnet: Path | None = None
    cityscapes: Path | None = None
    size: tuple[int, int] = streets.SIZE
    frames: int = streets.FRAMES
    attack_steps: int = streets.STEPS
    setting: rows.Setting = rows.SETTING
    segmenter: Callable[[], nn.Module] = streets.segmenter
    restorer: Callable[[], rr.Restorer] = rr.restorers.UNet.derain

    @cached_property
    def street(self) -> streets.Street:
        """The frames that are measured on."""
        return streets.held(self.camvid, 101 if self.full else self.frames, self.size).to(self.device)

    @cached_property
    def weather(self) -> streets.Weather:
        """The frames that are learnt from."""
        return streets.training(self.camvid, self.size)

    @property
    def steps(self) -> int:
        """Of the attacks that measure."""
        return 100 if self.full else self.attack_steps

    @property
    def few(self) -> streets.Street:
        """A few frames, for what is dear."""
        return self.street.some(32 if self.full else min(8, len(self.street.target)))

    def case(
        self, name: str, segmenter: Callable[[], nn.Module], restorer: Callable[[], rr.Restorer], times: int = 1
    ) -> rows.Case:
        """Trained on this run's frames, `times` as long for plain deraining."""
        more = 20 if self.full else 1
        setting = self.setting
        setting = replace(setting, steps=more * setting.steps, derain_steps=more * times * setting.derain_steps)
        return rows.Case(name, segmenter, restorer, self.weather, setting)

    @property
    def main(self) -> rows.Case:
        """The bundled derain network before the bundled segmenter."""
        return self.case("main", self.segmenter, self.restorer)

    def defence(self, case: rows.Case, row: str, seed: int) -> rows.Defence:
        """One row, trained or read back, on the device; layouts do not change results, and this one is faster."""
        model, stage = rows.trained(case, row, seed, self.out / case.name / f"seed {seed}")
        for part in (model, stage):
            if part is not None:
                part.to(self.device, memory_format=torch.channels_last)
        return model, stage

    def tuned(self) -> Callable[[], nn.Module]:
        """What makes the published ESPNet, tuned to this size."""
        if self.espnet is None:
            raise ValueError("espnet: expected a file of published weights, got none")
        return rows.tuned(self.espnet, self.weather, self.setting, self.out / "espnet tuned")

    def about(self) -> dict[str, Any]:
        """What holds for every part."""
        return {
            "size": list(self.size),
            "frames": len(self.street.target),
            "few": len(self.few.target),
            "rain": f"severity {streets.LEVEL}, seed {streets.UNSEEN}; in training seed 0, drawn anew at each reading",
            "scale": "full" if self.full else "small",
            "seeds": self.seeds,
            "attacks": {column.name: repr(column.attack) for column in (*self.columns, *self.further)},
        }

    @property
    def columns(self) -> list[streets.Column]:
        """Those of the comparisons."""
        return [streets.cos(4, self.steps), streets.cos(4, self.steps, view="oblivious"), streets.BIM]

    @property
    def further(self) -> list[streets.Column]:
        """Those of one seed: plain PGD, other sizes, and dry."""
        sizes = [streets.cos(size, self.steps) for size in (2, 8)]
        return [streets.pgd(4, self.steps), *sizes, streets.cos(4, self.steps, "dry")]


def by_seed(
    run: Run, case: rows.Case, seed: int, asked: list[streets.Column], which: Sequence[str] = LEARNT
) -> Iterator[tuple[str, dict[str, Any], rr.Stage | None]]:
    """(row, its columns, its derain network) at one seed; those before the frozen segmenter are measured together.

    All columns at the first seed, then the first one alone.
    """
    folder = run.out / case.name / f"seed {seed}"
    if seed:  # one column, and nothing to share
        for row in which:
            model, stage = run.defence(case, row, seed)
            yield row, rows.alone((model, stage), run.street, asked[:1], folder / f"measured {row}"), stage
        return
    for row in (row for row in which if row in OWN):
        model, stage = run.defence(case, row, seed)
        yield row, rows.alone((model, stage), run.street, asked, folder / f"measured {row}"), None
    kept = {row: run.defence(case, row, seed) for row in which if row not in OWN}
    stages = {row: stage for row, (_, stage) in kept.items() if stage is not None}
    model = next(iter(kept.values()))[0]
    for row, cells in streets.measured(model, stages, run.street, asked, folder / "measured").items():
        yield BARE if row == "none" else row, cells, stages.get(row)


def compared(run: Run, case: rows.Case, seeds: int, extra: Callable[[], rows.Seeds] = dict) -> Iterator[dict[str, Any]]:
    """All rows at some seeds, and further ones."""
    found: rows.Seeds = {BARE: []}
    looks: dict[str, list[Any]] = {BARE: [streets.quality(None, run.street)]}
    folders = [run.out / case.name / f"seed {seed}" for seed in range(seeds)]
    for seed in range(seeds):
        for row, cells, stage in by_seed(run, case, seed, run.columns):
            found.setdefault(row, []).append(cells)
            if stage is not None and row not in OWN:
                looks.setdefault(row, []).append(streets.quality(stage, run.street))
        yield rows.told(case, found, looks, folders[: seed + 1])
    found |= extra()
    yield rows.told(case, found, looks, folders)


def blurred(run: Run, case: rows.Case) -> rows.Seeds:
    """Plain filters: before the segmenter, and behind the derain network that knows of no attack."""
    folder, through = run.out / case.name / "filters", [c for c in run.columns if c.view == "adaptive"]
    model, stage = run.defence(case, DERAIN, 0)
    blur = rr.purifiers.Blur().to(run.device)
    behind = rr.DefendedPipeline(model, [blur])
    return {
        BLUR: [rows.alone((model, blur), run.street, through, folder / BLUR)],
        BLURRED: [rows.alone((behind, stage), run.street, through, folder / "behind")],
    }


def main(run: Run) -> Iterator[dict[str, Any]]:
    """The table, with all seeds."""
    yield from compared(run, run.main, run.seeds, lambda: blurred(run, run.main))


def more(run: Run) -> Iterator[dict[str, Any]]:
    """Other attacks, on a few frames, at the first seed."""
    yield from few(run, "more", run.further)


def few(
    run: Run, part: str, asked: Sequence[streets.Column], which: Sequence[str] = (BARE, *LEARNT)
) -> Iterator[dict[str, Any]]:
    """Rows of the first seed under further attacks, on a few frames."""
    found: rows.Seeds = {row: [{}] for row in which}
    for column in asked:
        for row in which:
            model, stage = run.defence(run.main, DERAIN if row == BARE else row, 0)
            defence = (model, None if row == BARE else stage)
            found[row][0] |= rows.alone(defence, run.few, [column], run.out / part / row)
        yield {"frames": len(run.few.target), "attacks": [repr(c.attack) for c in asked], "rows": rows.summary(found)}


def second(run: Run) -> Iterator[dict[str, Any]]:
    """Another derain network, which starts from nothing: a small NAFNet; one seed."""
    yield from compared(run, run.case("nafnet", run.segmenter, lambda: rr.restorers.NAFNet(width=8), 4), 1)


def espnet(run: Run) -> Iterator[dict[str, Any]]:
    """Another segmenter, the published ESPNet tuned to this size; one seed."""
    if run.espnet is not None:
        yield from compared(run, run.case("espnet", run.tuned(), run.restorer), 1)


def transfer(run: Run) -> Iterator[dict[str, Any]]:
    """The derain networks trained before the first segmenter, before the tuned ESPNet instead; a few frames, one seed."""
    if run.espnet is None:
        return
    model = run.tuned()().to(run.device)
    found: rows.Seeds = {}
    for row in (BARE, DERAIN, NAA, AMA):
        stage = None if row == BARE else run.defence(run.main, row, 0)[1]
        found[row] = [rows.alone((model, stage), run.few, run.columns, run.out / "transfer" / row)]
        yield {"frames": len(run.few.target), "rows": rows.summary(found)}


def square(run: Run) -> Iterator[dict[str, Any]]:
    """An attack without gradients."""
    attack = rr.attacks.Square(rr.Linf(8 / 255), 5000 if run.full else 100)
    yield from few(run, "square", [streets.Column("Square 8/255", attack)])


def checks(run: Run) -> Iterator[dict[str, Any]]:
    """Whether gradients are hidden: more steps, a size that breaks everything, noise of the same size."""
    asked = [streets.Column("uniform noise 4/255", rr.attacks.UniformNoise(rr.Linf(4 / 255)))]
    asked += [streets.pgd(4, steps) for steps in (1, 2, 5, 20, 50) if steps <= 2.5 * run.steps]
    yield from few(run, "checks", [streets.cos(64, run.steps), *asked], (NAA, AMA))


def cityscapes(run: Run) -> Iterator[dict[str, Any]]:
    """Another data set, without labels: how far answers agree with the bundled segmenter's on the dry frames."""
    if run.cityscapes is None:
        return
    street = streets.pairs(run.cityscapes / "norain", run.cityscapes / "rain100mm", run.segmenter(), run.size[0]).to(run.device)
    found: rows.Seeds = {}
    for row in (BARE, *LEARNT):
        model, stage = run.defence(run.main, DERAIN if row == BARE else row, 0)
        defence = (model, None if row == BARE else stage)
        found[row] = [rows.alone(defence, street, [streets.cos(4, run.steps)], run.out / "cityscapes" / row)]
        yield {"frames": len(street.target), "size": list(street.dry.shape[-2:]), "rows": rows.summary(found)}


PARTS: dict[str, Callable[[Run], Iterator[dict[str, Any]]]] = {
    "main": main, "more": more, "checks": checks, "square": square,
    "transfer": transfer, "second": second, "espnet": espnet, "cityscapes": cityscapes,
}  # fmt: skip
