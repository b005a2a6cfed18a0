"""The tables of the purifier benchmarks: by what the attacker sees, by size of the attack, in words."""

from functools import partial
from typing import Any

from table_parts import RESULTS, cell, lines, load, percent

SETS = ("camvid", "mnist", "photographs", "ucmerced")
PURIFIER_COLUMNS = {
    "no attack": "no attack", "oblivious": "oblivious", "bpda": "BPDA", "surrogate": "surrogate", "adaptive": "adaptive, EOT",
    "noise known": "noise known", "worst": "worst case",
}  # fmt: skip
PENDING, GUIDANCE = "Not measured yet.", "Noise known"


def _sizes(name: str) -> dict[str, Any]:
    """What a set's results say, by size of the attack; empty where there are none yet."""
    there = (RESULTS / f"purification_{name}.json").is_file()
    sizes: dict[str, Any] = load(f"purification_{name}")["sizes"] if there else {}
    return sizes


def _of_255(eps: str) -> str:
    whole = float(eps) * 255
    return f"{whole:.0f}/255" if abs(whole - round(whole)) < 0.02 and float(eps) < 0.05 else f"{float(eps):g}"


def purification(name: str) -> str:
    """Defences down, what the attacker sees across, at the first size."""
    if not (sizes := _sizes(name)):
        return PENDING
    eps, rows = next((eps, found["rows"]) for eps, found in sizes.items())
    metric = next(iter(rows[0]["values"]))
    cells = {(row["defence"], row["column"]): cell(row, metric) for row in rows}
    columns = [column for column in PURIFIER_COLUMNS if any(row["column"] == column for row in rows)]
    body = [[d, *(cells.get((d, column), "") for column in columns)] for d in dict.fromkeys(row["defence"] for row in rows)]
    head = f"{metric}, Linf {_of_255(eps)}, n = {rows[0]['count']}"
    return lines([head, *(PURIFIER_COLUMNS[column] for column in columns)], body)


def purification_sizes(name: str) -> str:
    """Defences down, sizes across: the attacker who sees exactly what is scored."""
    if len(sizes := _sizes(name)) < 2:
        return PENDING
    rows = next(iter(sizes.values()))["rows"]
    metric, found = next(iter(rows[0]["values"])), {}
    for eps, one in sizes.items():
        for column in ("adaptive", "noise known"):
            found |= {(row["defence"], eps): cell(row, metric) for row in one["rows"] if row["column"] == column}
    few = [d for d in dict.fromkeys(row["defence"] for row in rows) if all((d, eps) in found for eps in sizes)]
    order = sorted(sizes, key=float)
    body = [[defence, *(found[defence, eps] for eps in order)] for defence in few]
    return lines([f"{metric}, n = {rows[0]['count']}", *(f"Linf {_of_255(eps)}" for eps in order)], body)


def purification_verdicts(name: str) -> str:
    """What the comparisons of worst cases say in words, and what the reports warn of."""
    if not (sizes := _sizes(name)):
        return PENDING
    first = next(iter(sizes.values()))
    warnings = [line for group in first["groups"].values() for line in group["warnings"]]
    missing = [f"Unfinished, not measured yet: {', '.join(first['missing'])}."] if first["missing"] else []
    worst = [line for line in first["verdicts"] if not line.startswith(GUIDANCE)]
    return "\n".join(f"- {line}" for line in [*missing, *worst, *dict.fromkeys(warnings)])


def purification_sizes_verdicts(name: str) -> str:
    """What the comparisons with the best filter say at the other sizes, in words."""
    found = [(eps, line) for eps, one in list(_sizes(name).items())[1:] for line in one["verdicts"] if "best filter" in line]
    order = sorted(found, key=lambda pair: float(pair[0]))
    return "\n".join(f"- Linf {_of_255(eps)}. {line}" for eps, line in order) or PENDING


def purification_guidance(name: str) -> str:
    """What guidance changes for the attacker who knows the noise, in words."""
    said = [line for found in list(_sizes(name).values())[:1] for line in found["verdicts"] if line.startswith(GUIDANCE)]
    return "\n".join(f"- {line}" for line in said) or PENDING


def agdm_strengths(name: str) -> str:
    """Strengths down, 0 for the chain without guidance; the one that the tables use is marked."""
    if not (RESULTS / f"agdm_strengths_{name}.json").is_file():
        return PENDING
    found = load(f"agdm_strengths_{name}")
    metric, taken = next(iter(found["rows"][0]["values"])), f"{found['about']['taken']:g}"
    cells = {(row["defence"], row["column"]): cell(row, metric) for row in found["rows"]}
    columns = ("no attack", "noise known")
    strengths = dict.fromkeys(row["defence"] for row in found["rows"])
    body = [[f"{s} (taken)" if s == taken else s, *(cells[s, column] for column in columns)] for s in strengths]
    head = f"strength; {metric}, Linf {_of_255(found['about']['eps'])}, n = {found['rows'][0]['count']}"
    return _with_words(lines([head, *columns], body), found.get("warnings", []))


def longer_attack(name: str) -> str:
    """Defences down: the table's attack that knows the noise beside one of more steps; what the comparisons say in words."""
    if not all((RESULTS / f"{what}_{name}.json").is_file() for what in ("longer_attack", "purification")):
        return PENDING
    found, table = load(f"longer_attack_{name}"), load(f"purification_{name}")
    now, before = found["about"], table["about"]
    if other := sorted(
        key for key in now if key in before and key not in ("attack_steps", "machine") and now[key] != before[key]
    ):
        raise SystemExit(f"longer_attack_{name}.json: expected the settings of purification_{name}.json, differs in {other}")
    metric, taken = next(iter(found["rows"][0]["values"])), ("adaptive", "noise known")
    attacked = [row for row in found["rows"] if row["column"] in taken]
    at_first = {(row["defence"], row["column"]): cell(row, metric) for row in next(iter(table["sizes"].values()))["rows"]}
    body = [[row["defence"], at_first.get((row["defence"], row["column"]), ""), cell(row, metric)] for row in attacked]
    steps = before["attack_steps"], now["attack_steps"]
    head = [f"{metric}, Linf {_of_255(now['eps'])}, n = {attacked[0]['count']}", *(f"PGD-{n}" for n in steps)]
    return _with_words(lines(head, body), [*found["verdicts"], *found["warnings"]])


def _with_words(table: str, said: list[str]) -> str:
    return "\n".join([table, *([""] if said else []), *(f"- {line}" for line in said)])


def mnist_levels() -> str:
    """Purifiers down, which attacked image is handed on across."""
    if not (RESULTS / "mnist_levels.json").is_file():
        return PENDING
    found = load("mnist_levels")
    names = list(next(iter(found["rows"].values())))
    body = [[name, *(percent([row[n]["value"], *row[n]["interval"]]) for n in names)] for name, row in found["rows"].items()]
    return lines([f"accuracy in percent, n = {found['about']['images']}", *names], body)


TABLES = {
    "mnist_levels": mnist_levels,
    **{f"agdm_strengths_{name}": partial(agdm_strengths, name) for name in SETS},
    **{f"longer_attack_{name}": partial(longer_attack, name) for name in SETS},
    **{f"purification_{name}": partial(purification, name) for name in SETS},
    **{f"purification_{name} sizes": partial(purification_sizes, name) for name in SETS},
    **{f"purification_{name} verdicts": partial(purification_verdicts, name) for name in SETS},
    **{f"purification_{name} sizes verdicts": partial(purification_sizes_verdicts, name) for name in SETS},
    **{f"purification_{name} guidance": partial(purification_guidance, name) for name in SETS},
}
