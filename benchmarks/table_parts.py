"""What tables are made of: results read, cells and lines written."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def lines(head: list[str], body: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))


def cell(row: dict[str, Any], metric: str) -> str:
    low, high = row["intervals"][metric]
    digits = 2 if row["values"][metric] >= 2 else 3
    return f"{row['values'][metric]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def percent(row: list[float]) -> str:
    return f"{100 * row[0]:.1f} [{100 * row[1]:.1f}, {100 * row[2]:.1f}]"
