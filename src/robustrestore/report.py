"""Report: results as data; as JSON, Markdown, a notebook table, a self-contained HTML page and a picture."""

import html
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import write_text
from .metrics import Statistics

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .8rem;border-bottom:1px solid #d0d7de;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}tr.worst td{font-weight:600;background:#fff8e5}
img{max-width:100%}pre{background:#f6f8fa;padding:1rem;overflow:auto;font-size:13px;white-space:pre-wrap}"""


@dataclass(frozen=True)
class Row:
    """One line of a table: which defence, under which attack, seen by the attacker how, over how many images.

    `values` per metric, `intervals` at 95 %.
    """

    defence: str
    attack: str
    view: str
    count: int
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    def cell(self, metric: str) -> str:
        """The value and its interval as text."""
        low, high = self.intervals[metric]
        digits = 2 if abs(self.values[metric]) >= 2 else 3
        known = f" [{low:.{digits}f}, {high:.{digits}f}]" if low == low else ""
        return f"{self.values[metric]:.{digits}f}{known}"


@dataclass
class Report:
    """Rows, plain-language `verdicts`, `about` (settings, seed, versions) and `pictures` (name to [K, 3, H, W]).

    `statistics`: by (defence, attack, view) and metric, what each image adds to the row [N, K]; kept in no file. Two reports
    over the same images are compared with it: `verdict.compare(metric, first, second, what)`.
    """

    rows: list[Row]
    verdicts: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[tuple[str, str, str], dict[str, Statistics]] = field(default_factory=dict)

    def row(self, defence: str, view: str, attack: str | None = None) -> Row:
        """The first row of that defence and view (and attack); LookupError with the known ones otherwise."""
        for row in self.rows:
            if row.defence == defence and row.view == view and attack in (None, row.attack):
                return row
        known = sorted({(row.defence, row.view, row.attack) for row in self.rows})
        under = "" if attack is None else f" under {attack!r}"
        raise LookupError(f"no row for {defence!r} seen {view!r}{under}; known: {known}")

    def json(self) -> str:
        """Everything but the pictures, the same text for the same results."""
        content = {"about": self.about, "verdicts": self.verdicts, "rows": [asdict(row) for row in self.rows]}
        return json.dumps(_rounded(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and cells as text."""
        metrics = list(self.rows[0].values) if self.rows else []
        body = [[r.defence, r.attack, r.view, str(r.count), *(r.cell(m) for m in metrics)] for r in self.rows]
        return ["defence", "attack", "attacker sees", "n", *metrics], body

    def markdown(self) -> str:
        """The table and the verdicts."""
        head, body = self.table()
        lines = [f"| {' | '.join(_cell(cell) for cell in cells)} |" for cells in (head, ["---"] * len(head), *body)]
        return "\n".join([*lines, "", *(f"- {verdict}" for verdict in self.verdicts), ""])

    def __str__(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        head, body = self.table()
        top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        lines = []
        for row, cells in zip(self.rows, body, strict=True):
            kind = ' class="worst"' if row.view == "worst" else ""
            inside = "".join(f"<td{' class=n' if k >= 3 else ''}>{html.escape(c)}</td>" for k, c in enumerate(cells))
            lines.append(f"<tr{kind}>{inside}</tr>")
        said = "".join(f"<li>{html.escape(verdict)}</li>" for verdict in self.verdicts)
        return f"<table><tr>{top}</tr>{''.join(lines)}</table><ul>{said}</ul>"

    def html(self, title: str = "What the defence is worth") -> str:
        """A page that needs nothing beside it."""
        import base64

        picture = ""
        if self.pictures:
            data = base64.b64encode(_png(self.overview())).decode()
            picture = f'<h2>Pictures</h2><img alt="images and outputs side by side" src="data:image/png;base64,{data}">'
        about = html.escape(json.dumps(_rounded(self.about), indent=2, ensure_ascii=False))
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1><p>Values with 95 % intervals over images; higher is "
            f"better.</p>{self._repr_html_()}{picture}<h2>How this was measured</h2><pre>{about}</pre></html>\n"
        )

    def overview(self) -> Tensor:
        """One picture [3, H, W] in [0, 1]: a column for each entry of `pictures`, a line for each image."""
        if not self.pictures:
            raise ValueError("pictures: expected at least one, got none")
        return _grid(self.pictures)

    def save(self, folder: str | Path, title: str = "What the defence is worth") -> None:
        """Write report.json, report.md, report.html and, where there are pictures, overview.png into `folder`."""
        from .data.image_file import save_image

        folder = Path(folder)
        write_text(folder / "report.json", self.json())
        write_text(folder / "report.md", self.markdown())
        write_text(folder / "report.html", self.html(title))
        if self.pictures:
            save_image(self.overview(), folder / "overview.png")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _cell(text: str) -> str:
    """Text that stays within its cell of a Markdown table."""
    return text.replace("|", r"\|").replace("\n", " ")


def _label(text: str, width: int, height: int) -> Tensor:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.new("RGB", (width, height), "white")
    font = ImageFont.load_default(size=13)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width - 8:
            lines[-1] = longer
        else:
            lines.append(word)
    ImageDraw.Draw(canvas).multiline_text((4, height - 17 * len(lines)), "\n".join(lines), fill="black", font=font)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255


def _grid(pictures: dict[str, Tensor], gap: int = 6) -> Tensor:
    first = next(iter(pictures.values()))
    height, width = first.shape[-2:]
    scale = max(1, -(-160 // width))  # small images are enlarged, so that a label fits
    columns = []
    for name, images in pictures.items():
        tall = images.float().cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        bar = torch.ones(3, gap, width * scale)
        parts = [_label(name, width * scale, 58)]
        for image in tall:
            parts += [image, bar]
        columns += [torch.cat(parts, dim=1), torch.ones(3, 58 + len(tall) * (height * scale + gap), gap)]
    return torch.cat(columns, dim=2).clamp(0, 1)


def _png(image: Tensor) -> bytes:
    import tempfile

    from .data.image_file import save_image

    with tempfile.TemporaryDirectory() as folder:
        save_image(image, Path(folder) / "picture.png")
        return (Path(folder) / "picture.png").read_bytes()
