"""CertifiedReport: certificates of many images as data: rows, a summary with intervals over images, Markdown, JSON."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import write_text
from ..metrics import binomial, bootstrap, ratio
from .bounds import written
from .evidence import Evidence
from .noise import NORMS, Noise, Norm

RADII = (0.0, 0.25, 0.5, 0.75, 1.0)
COUNTS = "counts"
KINDS = ("classification", "segmentation", "restoration")
Value = dict[str, Any]


@dataclass(frozen=True)
class CertifiedReport:
    """`what`: classification, segmentation or restoration. `rows`: an image each, counts and what follows from them.

    `about`: noise, draws, alpha, seed, fingerprint of the base model. Every certificate holds for itself with its own alpha,
    not all of them at once, unless alpha was divided by their number.
    """

    what: str
    rows: list[dict[str, Any]]
    about: dict[str, Any] = field(default_factory=dict)
    stated: dict[str, Any] | None = None  # the summary of the file that it was read from, for `recheck`
    evidence: Sequence[Evidence] = ()  # of restored images, whose counts are too many for a row

    def noise(self) -> Noise:
        """The smoothing noise."""
        return Noise.of(self.about["noise"])

    def certified_accuracy(self, radius: float, norm: Norm = "l2") -> Value:
        """The share of images that are right and keep their class at every distance below `radius`, with a 95 % interval."""
        self._only("classification")
        hits = [_right(row) and row["radius"][norm] >= radius for row in self.rows]
        return _share(np.array(hits, dtype=np.float64))

    def acr(self, norm: Norm = "l2") -> Value:
        """The average certified radius: the mean radius, 0 where wrong or abstained, with a 95 % interval."""
        self._only("classification")
        return _mean([row["radius"][norm] if _right(row) else 0.0 for row in self.rows])

    def curve(self, norm: Norm = "l2") -> list[tuple[float, float]]:
        """Certified accuracy as a step function: (radius, share that is certified there) where it falls."""
        self._only("classification")
        radii = sorted({0.0, *(row["radius"][norm] for row in self.rows if _right(row))})
        return [(radius, self.certified_accuracy(radius, norm)["value"]) for radius in radii]

    def summary(self, radii: Sequence[float] = RADII) -> dict[str, Value]:
        """The figures of the report by name, each with a 95 % interval over images where it has one."""
        if self.what == "classification":
            found = {f"{norm} >= {written(r)}": self.certified_accuracy(r, norm) for norm in self._shown() for r in radii}
            gone = np.array([row["prediction"] is None for row in self.rows], dtype=np.float64)
            return {**found, **{f"ACR {norm}": self.acr(norm) for norm in self._shown()}, "abstained": _share(gone)}
        return _segmentation(self.rows) if self.what == "segmentation" else _restoration(self.rows)

    def _shown(self) -> list[Norm]:
        known: list[Norm] = [norm for norm in NORMS if self.noise().tightness(norm) == "exact"]
        return ["l2"] if "l2" in known else known[:1] or ["l2"]

    def _only(self, what: str) -> None:
        if self.what != what:
            raise ValueError(f"report: expected one of {what}, got one of {self.what}")

    def promise(self) -> str:
        """What a row promises, in words."""
        alpha, base = self.about["alpha"], self.about["model"]
        sure = (
            "without chance" if alpha == 0 else f"certified with probability at least 1 - {alpha:g} over the sampling of noise"
        )
        scope, whom = {
            "classification": ("", "the smoothed model"),
            "segmentation": (", jointly over its pixels", "the smoothed model"),
            "restoration": (
                ", jointly over its values, each size by itself",
                "the ideal smoothed map, of infinitely many draws",
            ),
        }[self.what]
        return (
            f"Each image by itself{scope}: {sure}, for {whom} (base {base}, {self.noise()!r}), not for the base model. "
            f"{self.about.get('draws', '')} draws an image; {len(self.rows)} images; seed {self.about.get('seed')}."
        )

    def markdown(self) -> str:
        """The summary as a table, and the promise."""
        lines = ["| figure | value | 95 % interval over images |", "| --- | ---: | ---: |"]
        for name, found in self.summary().items():
            known = "interval" in found and found["interval"][0] == found["interval"][0]
            low_high = "[{:.4g}, {:.4g}]".format(*found["interval"]) if known else ""
            lines.append(f"| {name} | {found['value']:.4g} | {low_high} |")
        return "\n".join([*lines, "", f"- {self.promise()}", ""])

    __str__ = markdown

    def json(self) -> str:
        """Everything, the same text for the same results."""
        content = {"what": self.what, "about": self.about, "summary": self.summary(), "rows": self.rows}
        return json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, folder: str | Path) -> None:
        """Write certified.json and certified.md into `folder`, and counts/NUMBER.safetensors of each restored image.

        Counts that an older, longer report left there are taken away.
        """
        for number, one in enumerate(self.evidence):
            one.save(Path(folder) / COUNTS / f"{number:06d}.safetensors")
        write_text(Path(folder) / "certified.json", self.json())
        write_text(Path(folder) / "certified.md", self.markdown())
        for file in (Path(folder) / COUNTS).glob("*.safetensors") if self.what == "restoration" else ():
            if re.fullmatch(r"\d{6,}", file.stem) and int(file.stem) >= len(self.evidence):
                file.unlink(missing_ok=True)

    @staticmethod
    def load(file: str | Path) -> "CertifiedReport":
        """The report of a certified.json, or of the folder that holds one; `recheck` says whether it is consistent."""
        path = Path(file)
        path = path / "certified.json" if path.is_dir() else path
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("what") not in KINDS:
            raise ValueError(f"{path}: expected a report of certificates, one of {', '.join(KINDS)}")
        if not isinstance(content.get("rows"), list) or not isinstance(content.get("about"), dict):
            raise ValueError(f"{path}: expected rows, a list, and what they are about, by name")
        counts = [Evidence(file=one) for one in sorted((path.parent / COUNTS).glob("*.safetensors"))]
        evidence = counts if content["what"] == "restoration" else []
        return CertifiedReport(content["what"], content["rows"], content["about"], content.get("summary"), evidence)


def _right(row: dict[str, Any]) -> bool:
    return row["prediction"] is not None and row["prediction"] == row["target"]


def _pairs(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([values, np.ones_like(values)], axis=1)


def _share(hits: NDArray[np.float64]) -> Value:
    return {"value": float(hits.mean()), "interval": list(binomial(_pairs(hits)))}


def _mean(values: Sequence[float]) -> Value:
    pairs = _pairs(np.asarray(values, dtype=np.float64))
    return {"value": float(pairs[:, 0].mean()), "interval": list(bootstrap(ratio)(pairs))}


def _ratio(parts: Sequence[float], wholes: Sequence[float]) -> Value:
    pairs = np.stack([np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)], axis=1)
    return {"value": ratio(pairs.sum(axis=0)), "interval": list(bootstrap(ratio)(pairs))}


def _segmentation(rows: Sequence[dict[str, Any]]) -> dict[str, Value]:
    """Over all labelled pixels; a pixel that abstains is wrong."""
    labelled, right = [row["labelled"] for row in rows], [row["right"] for row in rows]
    kept = [row["kept"] for row in rows]
    found = {
        "certified pixel accuracy": _ratio(right, labelled),
        "of certified pixels right": _ratio(right, kept),
        "abstained": _ratio([a - b for a, b in zip(labelled, kept, strict=True)], labelled),
    }
    if all("gain" in row for row in rows):
        found["certified information gain"] = _ratio([row["gain"] for row in rows], labelled)
    if all("intersection" in row for row in rows):
        size = max(len(row["union"]) for row in rows)
        both = np.array([_padded(row["intersection"], size) + _padded(row["union"], size) for row in rows], dtype=np.float64)
        found["certified mean IoU"] = {"value": _miou(both.sum(0)), "interval": list(bootstrap(_miou)(both))}
    for norm in NORMS:
        found[f"radius {norm}"] = {"value": float(min(row["radius"][norm] for row in rows))}  # images may be of several sizes
    return found


def _padded(values: Sequence[int], size: int) -> list[int]:
    return [*values, *([0] * (size - len(values)))]


def _miou(total: NDArray[np.float64]) -> float:
    """Over the classes that occur."""
    classes = len(total) // 2
    intersection, union = total[:classes], total[classes:]
    seen = union > 0
    return float((intersection[seen] / union[seen]).mean()) if seen.any() else float("nan")


def _restoration(rows: Sequence[dict[str, Any]]) -> dict[str, Value]:
    """Means over images, in dB."""
    found = {
        "PSNR of the noisy input": _mean([row["noisy"] for row in rows]),
        "PSNR, smoothed": _mean([row["psnr"] for row in rows]),
    }
    for eps in rows[0]["certified"]:
        values = [row["certified"][eps] for row in rows]
        found[f"certified PSNR, L2 <= {eps}"] = _mean(values)
        better = [value > row["noisy"] for value, row in zip(values, rows, strict=True)]
        found[f"above the noisy input, L2 <= {eps}"] = _share(np.array(better, dtype=np.float64))
    return found


def _finite(value: Any) -> Any:
    """Without NaN and infinity, which JSON has no words for."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
