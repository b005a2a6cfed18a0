"""The tables of cameras under displays, from results/udc.json."""

from collections.abc import Callable
from functools import partial
from typing import Any

from table_parts import RESULTS, lines, load

PENDING = "Not measured yet."
SIZES = (1, 2, 4, 8)
Row = dict[str, Any]


def _shown(table: Callable[[Any], str]) -> Callable[[], str]:
    """The table of the results; a word where there are none yet."""
    return lambda: table(load("udc")) if (RESULTS / "udc.json").is_file() else PENDING


def _rows(found: Any) -> dict[tuple[str, str, int, str], Row]:
    return {(row["defence"], row["attack"], row["size"], row["view"]): row for row in found["rows"]}


def _cell(row: Row | None, metric: str = "PSNR", digits: int = 2) -> str:
    if row is None:
        return ""
    low, high = row["intervals"][metric]
    return f"{row['values'][metric]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _names(found: Any) -> list[str]:
    return list(dict.fromkeys(row["defence"] for row in found["rows"]))


def _head(found: Any, what: str, attack: str) -> str:
    count = next(row["count"] for row in found["rows"] if row["attack"] == attack)
    return f"{what}, n = {count}"


def by_size(found: Any, attack: str, view: str, metric: str = "PSNR", digits: int = 2) -> str:
    """Defences down, no attack and the sizes that were measured across."""
    rows, body = _rows(found), []
    sizes = [size for size in SIZES if any((name, attack, size, view) in rows for name in _names(found))]
    for name in _names(found):
        if known := [row for size in sizes if (row := rows.get((name, attack, size, view)))]:
            clean = _unattacked(rows[name, "none", 0, "adaptive"], known[0]["count"], metric, digits)
            body.append([name, clean, *(_cell(rows.get((name, attack, size, view)), metric, digits) for size in sizes)])
    if not body:
        return PENDING
    unit = "PSNR in dB" if metric == "PSNR" else metric
    return lines([_head(found, unit, attack), "no attack", *(f"{attack} {size}/255" for size in sizes)], body)


def _unattacked(clean: Row, count: int, metric: str, digits: int) -> str:
    """Over the same images: of a costly attack, the first ones alone, without an interval."""
    if count == clean["count"]:
        return _cell(clean, metric, digits)
    values = [float(value) for value in clean["PSNR of images"].split()][:count]
    return f"{sum(values) / count:.2f}"


def gains(found: Any) -> str:
    """Comparisons down: paired differences in PSNR; those whose interval leaves out 0 in bold."""
    body = []
    for one in found["gains"]:
        cells = []
        for size in (0, *SIZES):
            mean, low, high = one["differences"].get(str(size), (float("nan"),) * 3)
            text = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
            cells.append(f"**{text}**" if low > 0 or high < 0 else text)
        body.append([f"{one['defence']} less {one['against']}", *cells])
    return lines(["difference in dB, paired", "no attack", *(f"PGD {size}/255" for size in SIZES)], body)


def words(found: Any) -> str:
    """What is gained under PGD at 4/255 and lost without attack, and where purifying and tuning stands; a line each."""
    said = []
    for one in found["gains"]:
        (gain, low, high), (cost, least, most) = (one["differences"][size] for size in ("4", "0"))
        attacked = f"{gain:+.2f} dB [{low:+.2f}, {high:+.2f}] under PGD at 4/255"
        clean = f"{cost:+.2f} dB [{least:+.2f}, {most:+.2f}] without attack"
        said.append(f"- {one['defence']}, against {one['against']}: {attacked}, {clean}.")
    return "\n".join(said)


def tunings(found: Any) -> str:
    """Tunings down: the PSNR of every seed."""
    rows, body = _rows(found), []
    for name in _names(found):
        cells = []
        for size in (0, *SIZES):
            row = rows.get((name, "PGD" if size else "none", size, "adaptive"))
            known = row["PSNR of tunings"] if row else {}
            cells.append(", ".join(f"{value:.2f}" for value in known.values()) if len(known) > 1 else "")
        if any(cells):
            body.append([name, *cells])
    if not body:
        return PENDING
    return lines(["PSNR of each tuning", "no attack", *(f"PGD {size}/255" for size in SIZES)], body)


def smallest(found: Any) -> str:
    """Defences down: how large a change C&W needs, and what then is left."""
    rows, body = _rows(found), []
    for name in _names(found):
        if (row := rows.get((name, "C&W", 0, "adaptive"))) is not None:
            own, reached = _cell(row, "PSNR to own clean output"), f"{100 * row['reached']:.0f} %"
            body.append([name, _cell(row, "L2"), reached, own, _cell(row)])
    if not body:
        return PENDING
    head = [_head(found, "C&W", "C&W"), "L2 of the change", "reached", "PSNR to own clean output", "PSNR to the truth"]
    return lines(head, body)


def choice(found: Any) -> str:
    """Strengths down: what the stage keeps of its input, and what the untuned restorer behind it makes."""
    body, kept = [], ("input kept", "no attack", "adaptive")
    for stage, points in found["choice"].items():
        for point in points:
            field = [f", {name} {value:g}" for name, value in point.items() if name not in (*kept, "chosen")]
            mark = ", chosen" if "chosen" in point else ""
            body.append([f"{stage}{''.join(field)}{mark}", *(f"{point[k]:.2f}" for k in kept)])
    count = found["about"]["pairs"]["choose"][0]
    return lines([f"PSNR in dB, n = {count}", "stage against its input", "restored", "restored, PGD-10 4/255"], body)


def cost(found: Any) -> str:
    """Defences down: time over that of the restorer alone."""
    known = found["seconds a megapixel"]
    body = [[name, f"{value:.2f}", f"{value / known['no defence']:.1f}"] for name, value in known.items()]
    return lines(["one thread", "seconds a megapixel", "of the restorer alone"], body)


def fresh(found: Any) -> str:
    """Purifiers that draw anew at every call."""
    body = []
    for name, draws in found["fresh noise"].items():
        body.append([name, *(f"{sum(values) / len(values):.2f}" for values in draws.values())])
    if not body:
        return PENDING
    first = next(iter(found["fresh noise"].values()))
    count = len(next(iter(first.values())))
    return lines([f"PSNR in dB, PGD 4/255, n = {count}", *(f"{n} draws a gradient" for n in first)], body)


def checks(found: Any) -> str:
    """In words."""
    return "\n".join(f"- {line}" for line in found["checks"])


TABLES = {
    "udc": _shown(partial(by_size, attack="PGD", view="adaptive")),
    "udc gains": _shown(gains),
    "udc words": _shown(words),
    "udc tunings": _shown(tunings),
    "udc alone": _shown(partial(by_size, attack="PGD", view="alone")),
    "udc handed on": _shown(partial(by_size, attack="PGD", view="handed on")),
    "udc ssim": _shown(partial(by_size, attack="PGD", view="adaptive", metric="SSIM", digits=3)),
    "udc perceptual": _shown(partial(by_size, attack="perceptual", view="adaptive")),
    "udc features": _shown(partial(by_size, attack="perceptual", view="adaptive", metric="feature distance", digits=3)),
    "udc simba": _shown(partial(by_size, attack="SimBA", view="adaptive")),
    "udc square": _shown(partial(by_size, attack="Square", view="adaptive")),
    "udc smallest": _shown(smallest),
    "udc choice": _shown(choice),
    "udc cost": _shown(cost),
    "udc fresh": _shown(fresh),
    "udc checks": _shown(checks),
}
