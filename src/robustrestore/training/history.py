"""History: what a training has shown, as data: losses and validations by step, a table, a curve."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#9a6700")


@dataclass
class History:
    """Rows of {"step": ..., "loss": ..., other losses, "rate": ...}, each the mean since the row before; validations likewise.

    `best`: the step whose validation was highest, and that value, by the first name validated. `about`: what was trained, on
    what, how.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def validated(self, step: int, values: Mapping[str, float]) -> bool:
        """Note a validation; whether it is the best one so far, by its first value (higher is better, NaN never is)."""
        name, value = next(iter(values.items()))
        if self.best and name not in self.best:
            known = next(one for one in self.best if one != "step")
            raise ValueError(
                f"validate: expected {known!r} first, which chose the best weights so far, got {name!r}: validate as before, "
                "or choose another folder"
            )
        self.validations.append({"step": step, **values})
        if math.isnan(value) or (self.best and not value > self.best[name]):
            return False
        self.best = {"step": step, name: value}
        return True

    def json(self) -> str:
        """All of it; the same text for the same training."""
        found = {"about": self.about, "best": self.best, "rows": self.rows, "validations": self.validations}
        return json.dumps(found, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "History":
        """What `json` wrote."""
        return cls(**json.loads(text))

    def markdown(self) -> str:
        """A line a checkpoint: step, losses, what was validated there."""
        known = {int(row["step"]): row for row in self.validations}
        rows = [{**row, **known.get(int(row["step"]), {})} for row in self.rows]
        names = list(dict.fromkeys(name for row in rows for name in row))
        head = [f"| {' | '.join(names)} |", f"|{' ---: |' * len(names)}"]
        body = [f"| {' | '.join(f'{row[n]:.6g}' if n in row else '' for n in names)} |" for row in rows]
        return "\n".join([*head, *body, ""])

    __str__ = markdown

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """Every named value as points (step, value), those that are not finite left out."""
        found: dict[str, list[tuple[float, float]]] = {}
        for row in [*self.rows, *self.validations]:
            for name, value in row.items():
                if name not in ("step", "rate") and math.isfinite(value):
                    found.setdefault(name, []).append((row["step"], value))
        return found

    def plot(self, width: int = 560, height: int = 280) -> str:
        """The curves as an SVG picture, each on its own scale, lowest and highest value in the legend."""
        curves = self.curves()
        last = max((step for points in curves.values() for step, _ in points), default=1) or 1
        parts = []
        for k, (name, points) in enumerate(curves.items()):
            low, high = min(v for _, v in points), max(v for _, v in points)
            span, colour = (high - low) or 1.0, COLOURS[k % len(COLOURS)]
            places = [(20 + (width - 40) * s / last, height - 20 - (height - 60) * (v - low) / span) for s, v in points]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
            text = f"{name} {low:.4g} to {high:.4g}".replace("&", "&amp;").replace("<", "&lt;")
            parts.append(f'<text x="{20 + 180 * (k % 3)}" y="{14 + 14 * (k // 3)}" fill="{colour}">{text}</text>')
        about = f'<text x="20" y="{height - 4}">steps 0 to {last:g}</text>'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
            f'font-size="11">{"".join(parts)}{about}</svg>'
        )

    _repr_svg_ = plot
