"""From cells to results/udc.json: means over tunings, intervals over images, paired differences, and what can be checked."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

import robustrestore as rr
from robustrestore.metrics import Statistics, bootstrap, paired_difference, ratio
from udc_data import Pairs
from udc_rows import BEYOND, GOAL, METRICS, SIZES, Cell
from udc_trainings import Scale, Strengths

Key = tuple[str, str, int, str]  # defence, attack, size of 255, what the attacker sees
BARE, MAIN = "no defence", "purify + tune"
RIVALS = ("purify only", "tuned on clean", "blur + tune", "noise + tune", "adversarial training")
_INTERVAL = bootstrap(ratio)


def about(scale: Scale, strengths: Strengths, displays: list[Any], pairs: dict[str, Pairs], machine: dict[str, Any]) -> Any:
    """What the figures depend on."""
    return {
        "scale": asdict(scale),
        "strengths": asdict(strengths),
        "displays": [repr(display) for display in displays],
        "pairs": {name: list(one.images.shape) for name, one in pairs.items()},
        "threat": "Linf, in units of tone-mapped [0, 1] images, away from the truth; C&W in L2, until the output is "
        f"{GOAL:g} dB from the restorer's own clean output",
        "intervals": "95 %, expanded percentile bootstrap over images (1000), of the mean over tunings",
        "machine": machine,
    }


class Findings:
    """Cells as they come in."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.said = said
        self.found: dict[Key, dict[int, dict[str, list[float]]]] = {}
        self.fresh: dict[str, dict[str, list[float]]] = {}
        self.seconds: dict[str, float] = {}

    def add(self, cell: Cell, measured: dict[str, Any]) -> None:
        """One of them."""
        key = cell.who.name, cell.attack, cell.size, cell.view
        self.found.setdefault(key, {})[cell.who.seed] = measured["values"]

    def mean(self, key: Key, metric: str = "PSNR", count: int | None = None) -> Statistics | None:
        """Per image the mean over tunings, as statistics [N, 2]; None where nothing was measured."""
        if key not in self.found:
            return None
        values = np.mean([one[metric] for one in self.found[key].values()], axis=0)[:count]
        return np.stack([values, np.ones_like(values)], axis=1)

    def rows(self) -> list[dict[str, Any]]:
        """Every cell: values, intervals, PSNR of each tuning and of each image."""
        told = []
        for key, seeds in self.found.items():
            tables = {name: table for name in METRICS if (table := self.mean(key, name)) is not None}
            values = {name: round(ratio(table.sum(axis=0)), 5) for name, table in tables.items()}
            intervals = {name: [round(v, 5) for v in _INTERVAL(table)] for name, table in tables.items()}
            told.append({
                **dict(zip(("defence", "attack", "size", "view"), key, strict=True)), "count": len(tables["PSNR"]),
                "values": values, "intervals": intervals,
                "PSNR of tunings": {str(seed): round(float(np.mean(one["PSNR"])), 4) for seed, one in seeds.items()},
                "PSNR of images": " ".join(f"{v:.2f}" for v in tables["PSNR"][:, 0]),
            })  # fmt: skip
            if key[1] == "C&W":
                told[-1]["reached"] = float(np.mean([v <= GOAL + 1e-3 for v in seeds[0]["PSNR to own clean output"]]))
        return told

    def gains(self) -> list[dict[str, Any]]:
        """Paired differences in PSNR without attack and under PGD that knows everything: [mean, low, high] by size."""
        names = list(dict.fromkeys(key[0] for key in self.found))
        pairs = [(name, BARE) for name in names if name != BARE] + [(MAIN, name) for name in RIVALS]
        found = []
        for first, second in pairs:
            sizes = {}
            for size in (0, *SIZES):
                attack = "PGD" if size else "none"
                one, other = (self.mean((name, attack, size, "adaptive")) for name in (first, second))
                if one is not None and other is not None:
                    mean, (low, high) = paired_difference(rr.metrics.psnr(), one, other)
                    sizes[str(size)] = [round(v, 4) for v in (mean, low, high)]
            if sizes:
                found.append({"defence": first, "against": second, "differences": sizes})
        return found

    def content(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "about": self.said, "rows": self.rows(), "gains": self.gains(), "checks": checks(self), "fresh noise": self.fresh,
            "seconds a megapixel": self.seconds,
        }  # fmt: skip


def checks(found: Findings) -> list[str]:
    """What a hidden gradient or a weak attack would show, in words, with the exceptions."""
    names = [key[0] for key in found.found if key[2] == BEYOND]
    return [
        line for check in (_black_box, _larger, _noise, _handed_on, _beyond, _rounding, _deep) for line in check(found, names)
    ]


def _told(what: str, wrong: list[str], total: int) -> list[str]:
    listed = f" Exceptions: {'; '.join(wrong)}." if wrong else ""
    return [f"{what}: {total - len(wrong)} of {total}.{listed}"] if total else []


def _compared(found: Findings, what: str, pairs: list[tuple[str, Key, Key]], fine: Callable[[float, float], bool]) -> list[str]:
    """How many pairs of cells are as they should be, by mean PSNR over the images that both have."""
    wrong, total = [], 0
    for label, first, second in pairs:
        one, other = found.mean(first), found.mean(second)
        if one is None or other is None:
            continue
        count = min(len(one), len(other))
        a, b = (float(table[:count, 0].mean()) for table in (one, other))
        total += 1
        if not fine(a, b):
            wrong.append(f"{label} ({a:.2f} against {b:.2f} dB)")
    return _told(what, wrong, total)


def _black_box(found: Findings, names: list[str]) -> list[str]:
    pairs = [
        (f"{name}, {attack} {size}/255", (name, attack, size, "adaptive"), (name, "PGD", size, "adaptive"))
        for name in names for attack in ("SimBA", "Square") for size in SIZES
    ]  # fmt: skip
    return _compared(found, "Black-box attacks do no more harm than PGD through everything", pairs, lambda a, b: a >= b - 1e-3)


def _larger(found: Findings, names: list[str]) -> list[str]:
    pairs = [
        (f"{name}, {big}/255 after {small}/255", (name, "PGD", big, "adaptive"), (name, "PGD", small, "adaptive"))
        for name in names for small, big in zip(SIZES, (*SIZES[1:], BEYOND), strict=True)
    ]  # fmt: skip
    return _compared(found, "A larger PGD does more harm", pairs, lambda a, b: a < b)


def _noise(found: Findings, names: list[str]) -> list[str]:
    pairs = [
        (f"{name}, {size}/255", (name, "noise", size, "adaptive"), (name, "PGD", size, "adaptive"))
        for name in names for size in SIZES
    ]  # fmt: skip
    return _compared(found, "PGD does more harm than uniform noise of its size", pairs, lambda a, b: a > b)


def _handed_on(found: Findings, names: list[str]) -> list[str]:
    pairs = [
        (f"{name}, {attack} {size}/255, {view}", (name, attack, size, view), (name, attack, size, "adaptive"))
        for name in names for attack in ("PGD",) for size in SIZES for view in ("alone", "handed on")
    ]  # fmt: skip
    return _compared(found, "An attacker who knows less does less harm", pairs, lambda a, b: a >= b - 1e-3)


def _beyond(found: Findings, names: list[str]) -> list[str]:
    values = {
        name: table[:, 0].mean() for name in names if (table := found.mean((name, "PGD", BEYOND, "adaptive"))) is not None
    }
    wrong = [f"{name} ({value:.2f} dB)" for name, value in values.items() if value > 10]
    return _told(f"PGD at {BEYOND}/255 leaves 10 dB or less", wrong, len(values))


def _rounding(found: Findings, names: list[str]) -> list[str]:
    lost = []
    for name in names:
        for size in SIZES:
            key = name, "PGD", size, "adaptive"
            one, other = found.mean(key), found.mean(key, "PSNR, attack in 8 bits")
            if one is not None and other is not None:
                lost.append(float((other - one)[:, 0].mean()))
    return [f"Rounding attacked images to 8 bits gives back at most {max(lost):.2f} dB."] if lost else []


def _deep(found: Findings, names: list[str]) -> list[str]:
    wrong, total = [], 0
    for name in names:
        for size in SIZES:
            one, other = (found.mean((name, a, size, "adaptive"), "feature distance") for a in ("perceptual", "PGD"))
            if one is not None and other is not None:
                total += 1
                if one[:, 0].mean() <= other[:, 0].mean():
                    wrong.append(f"{name}, {size}/255")
    return _told("The perceptual attack moves features further than PGD on the squared error", wrong, total)
