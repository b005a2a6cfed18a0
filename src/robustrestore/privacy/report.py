"""MembershipReport: what each attack finds out about each target, with intervals, as Markdown and JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import write_text
from .roc import Estimate


@dataclass(frozen=True)
class Row:
    """One attack on one target: balanced accuracy, AUC, and TPR by false-positive rate."""

    target: str
    attack: str
    accuracy: Estimate
    auc: Estimate
    tpr: Mapping[float, Estimate]


@dataclass(frozen=True)
class MembershipReport:
    """Rows by target and attack, `warnings`, and `about`: how many images, which seed."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    about: dict[str, Any]

    def row(self, target: str, attack: str) -> Row:
        """The row of that target whose attack's name begins so; LookupError with the known ones otherwise."""
        for row in self.rows:
            if row.target == target and row.attack.startswith(attack):
                return row
        raise LookupError(f"no row for {attack!r} on {target!r}; known: {[(r.target, r.attack) for r in self.rows]}")

    def worst(self, target: str) -> Row:
        """The attack with the highest AUC: what a target is to be judged by."""
        rows = [row for row in self.rows if row.target == target]
        if not rows:
            raise LookupError(f"no row for {target!r}; known: {self.about['targets']}")
        return max(rows, key=lambda row: row.auc.value)

    def verdicts(self) -> list[str]:
        """A sentence a target: how much its strongest attack found."""
        found = []
        for name in self.about["targets"]:
            row = self.worst(name)
            told = f"{row.attack} reaches AUC {_shown(row.auc)} and balanced accuracy {_shown(row.accuracy)}"
            known = "it tells members apart" if row.auc.low > 0.5 else "no better than chance within its interval"
            found.append(f"{name}: {told}: {known}. Failed attacks are no proof of privacy")
        return found

    def markdown(self) -> str:
        """A line a row, then verdicts and warnings. All intervals are at 95 %."""
        rates = list(self.rows[0].tpr) if self.rows else []
        head = ["target", "attack", "balanced accuracy", "AUC", *(f"TPR at {rate:.1%} FPR" for rate in rates)]
        lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        for row in self.rows:
            cells = [row.target, row.attack, _shown(row.accuracy), _shown(row.auc), *(_shown(e) for e in row.tpr.values())]
            lines.append(f"| {' | '.join(cells)} |")
        sizes = f"{self.about['members']} members, {self.about['non-members']} non-members; chance: 0.5, 0.5, the FPR"
        notes = [*self.verdicts(), *self.warnings, sizes]
        return "\n".join([*lines, "", *(f"- {note}." for note in notes), ""])

    __str__ = markdown

    def json(self) -> str:
        """All of it, the same text for the same result."""
        rows = [asdict(row) | {"tpr": {f"{rate:g}": asdict(e) for rate, e in row.tpr.items()}} for row in self.rows]
        told = {"about": self.about, "verdicts": self.verdicts(), "warnings": list(self.warnings), "rows": rows}
        return json.dumps(told, indent=1, allow_nan=False) + "\n"

    def save(self, folder: str | Path) -> None:
        """Write membership.json and membership.md into `folder`."""
        write_text(Path(folder) / "membership.json", self.json())
        write_text(Path(folder) / "membership.md", self.markdown())


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
