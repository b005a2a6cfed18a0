"""select_noise: family and scale of the smoothing noise by average certified radius on images held out for it, then frozen."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import digest, write_text
from ..runs import spawn
from .classifier import SmoothedClassifier
from .measure import Batches, measure_classifier
from .noise import NORMS, Noise, Norm
from .report import CertifiedReport
from .spread import Progress


@dataclass(frozen=True)
class NoiseChoice:
    """What was tried, and the one with the largest average certified radius (ACR) in `norm`; the first of equals.

    `smoothed`: the candidates, base model and noise each; `reports`: their certificates on the selection images, whose digests
    are `seen`. The choice is for one norm: another norm may want another noise, and then it is another classifier with an alpha
    of its own. ACRs of the selection images are those of a maximum, so they flatter: quote `measure` on others.
    """

    norm: Norm
    smoothed: tuple[SmoothedClassifier, ...]
    reports: tuple[CertifiedReport, ...]
    seen: frozenset[str]
    warnings: tuple[str, ...]

    @property
    def place(self) -> int:
        """The place of the chosen candidate."""
        values = self.values()
        return values.index(max(values))

    @property
    def chosen(self) -> SmoothedClassifier:
        """The classifier to certify and deploy."""
        return self.smoothed[self.place]

    @property
    def noise(self) -> Noise:
        """Its noise."""
        return self.chosen.noise

    def values(self) -> list[float]:
        """The ACR of each candidate."""
        return [float(report.acr(self.norm)["value"]) for report in self.reports]

    def measure(self, batches: Batches, **settings: Any) -> CertifiedReport:
        """`measure_classifier` of the frozen choice on other images; ValueError for one that took part in the selection."""

        def checked() -> Iterator[Any]:
            for images, target in batches:
                if known := sum(digest(image.float().cpu()) in self.seen for image in images):
                    raise ValueError(
                        f"images: expected none that the noise was selected on, got {known} of a batch: their radii would "
                        "flatter, so hold out others for the selection"
                    )
                yield images, target

        report = measure_classifier(self.chosen, checked(), **settings)
        report.about["noise selected"] = {"norm": self.norm, "candidates": len(self.smoothed), "images": len(self.seen)}
        return report

    def about(self) -> dict[str, Any]:
        """The choice as JSON values."""
        rows = [
            {"noise": repr(one.noise), "tightness": one.noise.tightness(self.norm), "acr": report.acr(self.norm)}
            for one, report in zip(self.smoothed, self.reports, strict=True)
        ]
        told = {"norm": self.norm, "chosen": repr(self.noise), "images": len(self.seen), "candidates": rows}
        return {
            **told,
            "warnings": list(self.warnings),
            "how": {k: self.reports[0].about[k] for k in ("draws", "alpha", "seed")},
        }

    def json(self) -> str:
        """All of it, the same text for the same result."""
        return json.dumps(self.about(), indent=1, allow_nan=False) + "\n"

    def markdown(self) -> str:
        """A line a candidate, the chosen one in bold."""
        lines = [f"| noise | ACR {self.norm} | 95 % interval over images | radius |", "| --- | ---: | ---: | --- |"]
        for k, row in enumerate(self.about()["candidates"]):
            name, (low, high) = row["noise"], row["acr"]["interval"]
            shown = f"**{name}**" if k == self.place else name
            lines.append(f"| {shown} | {row['acr']['value']:.4g} | [{low:.4g}, {high:.4g}] | {row['tightness']} |")
        return "\n".join([*lines, "", *(f"- {warning}" for warning in self.warnings), ""])

    __str__ = markdown

    def save(self, folder: str | Path) -> None:
        """Write selected.json and selected.md into `folder`."""
        write_text(Path(folder) / "selected.json", self.json())
        write_text(Path(folder) / "selected.md", self.markdown())


def select_noise(
    candidates: Sequence[SmoothedClassifier],
    batches: Batches,
    norm: Norm = "l2",
    draws: tuple[int, int] = (100, 1000),
    alpha: float = 0.001,
    seed: int | None = 0,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> NoiseChoice:
    """Certify the held-out `batches` of (images, labels) under each candidate and choose by ACR in `norm`.

    A candidate is a base model with its noise: a surrogate is to be trained under the very noise, so each noise has its own.
    The choice is one for all images. A noise chosen anew for each input, as some papers do, has no guarantee in general
    (Súkeník et al., 2022) and is refused. `folder`: a killed run goes on there. `progress` is called with candidates done
    and all of them.
    """
    made = tuple(candidates)
    _check(made, norm)
    held = [(images, target) for images, target in batches]
    seen = frozenset(digest(image.float().cpu()) for images, _ in held for image in images)
    if len(seen) < 2:
        raise ValueError(
            f"batches: expected many images held out for the selection, got {len(seen)}: a noise chosen for one input voids "
            "its certificate"
        )
    reports = []
    for number, one in enumerate(made):
        own = None if seed is None else spawn(seed, f"candidate {number}")
        place = None if folder is None else Path(folder) / f"candidate-{number:03d}"
        reports.append(measure_classifier(one, held, draws, alpha, own, place))
        if progress is not None:
            progress(number + 1, len(made))
    choice = NoiseChoice(norm, made, tuple(reports), seen, ())
    return NoiseChoice(norm, made, tuple(reports), seen, tuple(_doubts(choice)))


def _check(candidates: Sequence[SmoothedClassifier], norm: Norm) -> None:
    if norm not in NORMS:
        raise ValueError(f"norm: expected one of {', '.join(NORMS)}, got {norm!r}")
    if not candidates:
        raise ValueError("candidates: expected at least one SmoothedClassifier, got none")
    for one in candidates:
        if not isinstance(one, SmoothedClassifier):
            raise TypeError(f"candidates: expected SmoothedClassifier(model, noise), got {type(one).__name__}")
        if not isinstance(one.noise, Noise):
            raise TypeError(
                f"noise: expected one Noise for all images, got {type(one.noise).__name__}: a noise chosen for each input has "
                "no guarantee in general, so freeze one"
            )


def _doubts(choice: NoiseChoice) -> list[str]:
    """What makes the choice doubtful."""
    values, found = choice.values(), []
    best = choice.reports[choice.place].acr(choice.norm)
    if max(values) == 0:
        return ["no candidate certifies a single image: the choice says nothing; train the model under the noise"]
    near = [k for k, v in enumerate(values) if k != choice.place and v >= best["interval"][0]]
    if near:
        names = ", ".join(repr(choice.smoothed[k].noise) for k in near)
        found.append(f"within the interval of the chosen one: {names}; more images would tell")
    floors = [one for one in choice.smoothed if one.noise.tightness(choice.norm) == "floor"]
    if floors:
        found.append(f"{choice.norm}: {len(floors)} candidates have a floor for their radius, not the exact one")
    return found
