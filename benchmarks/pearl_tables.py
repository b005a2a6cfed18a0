"""Tables of PEARL: rows down, what it rains and who attacks across."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from table_parts import RESULTS, lines, load

PENDING = "Not measured yet."
CASES = ("main", "second", "espnet")
ATTACK = "CosPGD-20 4/255"
HEADS = {
    "dry": "dry", "rain": "rain", f"{ATTACK}, oblivious": "rain, oblivious", "BIM-2 at 0.03": "rain, BIM-2 at 0.03",
    ATTACK: "rain, adaptive",
}  # fmt: skip
MORE = {
    "PGD-20 4/255": "PGD-20, 4/255", **{f"CosPGD-20 {size}/255": f"CosPGD-20, {size}/255" for size in (2, 4, 8)},
    f"{ATTACK}, dry": "CosPGD-20, 4/255, dry",
}  # fmt: skip


def _part(name: str) -> dict[str, Any]:
    found: dict[str, Any] = load("pearl").get(name, {}) if (RESULTS / "pearl.json").is_file() else {}
    return found


def _cell(found: dict[str, Any], metric: str) -> str:
    """Value and interval over images."""
    if metric not in found:
        return ""
    low, high = found[metric]["interval"]
    return f"{found[metric]['value']:.3f} [{low:.3f}, {high:.3f}]"


def _table(name: str, heads: dict[str, str], metric: str, title: Callable[[dict[str, Any]], str]) -> str:
    """Rows down, the columns that there are across."""
    if not (part := _part(name)):
        return PENDING
    rows = part["rows"]
    asked = {column: head for column, head in heads.items() if any(column in row for row in rows.values())}
    body = [[row, *(_cell(cells.get(column, {}), metric) for column in asked)] for row, cells in rows.items()]
    return lines([title(part), *asked.values()], body)


def pearl(name: str, metric: str, heads: dict[str, str]) -> str:
    """One of the comparisons, in one metric."""
    return _table(name, heads, metric, lambda part: metric)


def seeds(name: str = "main") -> str:
    """What each seed gave in the rain and under the adaptive attack."""
    if not (part := _part(name)):
        return PENDING
    body = []
    for row, cells in part["rows"].items():
        told = [", ".join(f"{v:.3f}" for v in cells[column]["mean IoU"]["seeds"]) for column in ("rain", ATTACK)]
        body.append([row, *told])
    return lines(["mean IoU, a seed each", "rain", "rain, adaptive"], body)


def verdicts(name: str) -> str:
    """Pairs in words, and whether the seeds agree; no clear difference where they overlap."""
    if not (part := _part(name)):
        return PENDING
    said = []
    for line in part["verdicts"]:
        many = f" {line['seeds']} seeds a row: {'all on one side' if line['apart'] else 'they overlap'}."
        text = line["text"]
        if line["seeds"] > 1 and not line["apart"]:
            text = re.sub(r": (better|worse);", ": no clear difference;", text)
        said.append(f"- {text}{many if line['seeds'] > 1 else ' One seed.'}")
    return "\n".join(said)


def quality() -> str:
    """Networks down, PSNR and SSIM of what they make of the rain across: the mean over seeds, and the seeds."""
    body = []
    for name in CASES:
        for row, found in _part(name).get("quality", {}).items():
            if name != "main" and row == "no defence":
                continue
            cells = [_mean([one[metric][0] for one in found], digits) for metric, digits in (("PSNR", 2), ("SSIM", 3))]
            body.append([row if name == "main" else f"{row}, {name}", *cells])
    return lines(["rainy frames, against the dry ones", "PSNR", "SSIM"], body) if body else PENDING


def _mean(values: Sequence[float], digits: int) -> str:
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def simple(name: str, metric: str = "mean IoU") -> str:
    """A part with columns of its own."""
    if not (part := _part(name)):
        return PENDING
    columns = list(dict.fromkeys(column for row in part["rows"].values() for column in row))
    return _table(name, {column: column for column in columns}, metric, lambda p: f"{metric}, n = {p['frames']}")


def cost() -> str:
    """Rows down: updates, and seconds of the processor that the training took, a seed each."""
    if not (part := _part("main")):
        return PENDING
    about, body = part["training"], []
    for row, seconds in part["seconds"].items():
        steps = about["derain_steps"] if row == "derain only" else about["steps"]
        body.append([row, str(steps), str(steps * about["batch"]), ", ".join(f"{v:.0f}" for v in seconds)])
    return lines(["trained", "updates", "images seen", "CPU seconds, a seed each"], body)


TABLES = {
    **{f"pearl {name}": partial(pearl, name, "mean IoU", HEADS) for name in CASES},
    **{f"pearl {name} verdicts": partial(verdicts, name) for name in CASES},
    "pearl accuracy": partial(pearl, "main", "pixel accuracy", HEADS),
    "pearl more": partial(pearl, "more", "mean IoU", MORE),
    "pearl seeds": seeds,
    "pearl quality": quality,
    "pearl checks": partial(simple, "checks"),
    "pearl checks accuracy": partial(simple, "checks", "pixel accuracy"),
    "pearl square": partial(simple, "square"),
    "pearl transfer": partial(simple, "transfer"),
    "pearl cityscapes": partial(simple, "cityscapes"),
    "pearl cost": cost,
}
