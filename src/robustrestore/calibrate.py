"""Choosing a setting by a score: the noise level of a purifier, by what the task network sees of its images (ANLS)."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from .answers import Answered, Answers
from .arguments import whole
from .diffusion import Denoiser, DiscreteTime, linear_alphas
from .feature import Batches, Features, Gaussian
from .levels import checked_levels, placed, stages_of
from .modes import seeded
from .stage import Stage

FAR = 1 / 3  # our choice: on four networks, choices were good below it and poor above (benchmarks/anls.py)
FLAT, WAVE = 0.05, 0.02  # our choice: a fall of less than 5 % is none, a rise of less than 2 % of the curve's range is noise
Search = Callable[[int, Callable[[int], float]], None]
"""How to walk over `count` rising levels: calls `distance(k)` where it wants to know; the lowest value seen is chosen."""


def sigma_grid(timesteps: Sequence[int] = range(10, 151, 10), alphas: Sequence[float] | None = None) -> list[float]:
    """Levels in [0, 1] units of 0-based timesteps; by default those of UAD-RS (Yu et al., 2024) on linear betas, T = 1000."""
    products = linear_alphas() if alphas is None else alphas
    if wrong := [t for t in timesteps if not 0 <= t < len(products)]:
        raise ValueError(f"timesteps: expected whole numbers from 0 to {len(products) - 1}, got {wrong}")
    table = DiscreteTime(nn.Identity(), products)
    return [table.sigma(t) for t in timesteps]


def full_sweep(count: int, distance: Callable[[int], float]) -> None:
    """Every level, as published."""
    for k in range(count):
        distance(k)


def coarse_to_fine(count: int, distance: Callable[[int], float]) -> None:
    """Fibonacci search (Kiefer, 1953): on a curve with one valley the level of the full sweep, for 6 of 15 levels at most.

    Where high levels cost more (as many steps as the timestep), at most 51 % of the sweep's network calls and 40 % on average.
    No search that compares levels needs fewer in the worst case. The neighbours of the chosen level are always measured, so
    it is a lowest point of its surroundings whatever the curve; a second valley that the search does not meet stays unseen.
    """

    def at(k: int) -> float:
        return distance(k) if k < count else float("inf")

    small, large, start = 1, 1, -1  # what is left lies strictly between start and start + small + large
    while small + large < count + 1:
        small, large = large, small + large
    while large > 1:
        if not at(start + small) <= at(start + large):
            start += small
        small, large = large - small, small
    at(start + 1)


@dataclass(frozen=True)
class Point:
    """One measured level: the distance, and how many images went through a denoiser for it (tiles count)."""

    level: float
    distance: float
    calls: int


@dataclass(frozen=True)
class LevelChoice:
    """The measured curve, by rising level, what is odd about it, and what it was measured on."""

    points: tuple[Point, ...]
    warnings: tuple[str, ...]
    about: dict[str, Any]

    @property
    def chosen(self) -> float:
        """The level of the smallest distance; the lowest one of equals."""
        return min(self.points, key=lambda p: (p.distance, p.level)).level

    @property
    def calls(self) -> int:
        """Images sent through a denoiser, over all levels."""
        return sum(p.calls for p in self.points)

    @property
    def _distance(self) -> str:
        return str(self.about.get("distance", "Fréchet distance"))

    def json(self) -> str:
        """All of it, the same text for the same result."""
        return json.dumps({"chosen": self.chosen, "calls": self.calls, **asdict(self)}, indent=2, allow_nan=False) + "\n"

    def markdown(self) -> str:
        """The curve as a table, the chosen level in bold, and the warnings."""
        lines = [f"| sigma | grey levels | {self._distance} | denoiser calls |", "| ---: | ---: | ---: | ---: |"]
        for p in self.points:
            name = f"**{p.level:.4f}**" if p.level == self.chosen else f"{p.level:.4f}"
            lines.append(f"| {name} | {255 * p.level:.1f} | {p.distance:.6g} | {p.calls} |")
        return "\n".join([*lines, "", *(f"- {warning}" for warning in self.warnings), ""])

    __str__ = markdown

    def plot(self, width: int = 480, height: int = 240) -> str:
        """The curve as an SVG picture, the chosen level marked."""
        far = max(p.level for p in self.points) or 1.0
        top = max(p.distance for p in self.points) or 1.0
        places = {
            p.level: (40 + (width - 60) * p.level / far, height - 30 - (height - 50) * p.distance / top) for p in self.points
        }
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places.values())
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places.values())
        x, y = places[self.chosen]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">'
            f'<polyline points="{line}" fill="none" stroke="#0969da"/><g fill="#0969da">{dots}</g>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="#cf222e"/>'
            f'<text x="40" y="14">{self._distance}, at most {top:.4g}</text>'
            f'<text x="40" y="{height - 8}">sigma from 0 to {far:.4g}, chosen {self.chosen:.4g}</text></svg>'
        )

    _repr_svg_ = plot


def select_noise_level(
    purifier: Stage | Callable[[float], Stage],
    features: Features | Answers,
    attacked: Batches,
    clean: Batches | Gaussian | Answered,
    levels: Sequence[float] | None = None,
    search: Search = full_sweep,
    seed: int = 0,
    progress: Callable[[Point], None] | None = None,
) -> LevelChoice:
    """The level whose purified images look most like clean ones to the task network: ANLS of UAD-RS (Yu et al., 2024).

    Per level the Fréchet distance between the features of the purified `attacked` images and of `clean` training images
    (unpaired; `features.statistics(clean)` once serves many calls); the smallest one wins, the lowest level of equals. Labels
    are never touched. With few images, or where clean images differ among themselves by more than the attack, it took far too
    little noise in our measurements (docs/purification.md); held-out clean images in place of training ones helped one network
    of four. With 0 among the levels a warning says where more than a third of the distance remains. Who attacks clean images
    of his own hands over `Answers(model)` as `features` and those very images as `clean`: no ANLS, but never worse there.

    `purifier`: a part with a setting `sigma`, or a function from level to stage (to change steps too, say). Of a part with a
    `seed` every image gets noise of its own here, as in the paper: one noise for all is one draw, and shifts the features'
    mean; a function's stage is taken as it is. Noise follows `seed` and is the same at each level. Level 0 is the images as
    they are, without a call. `levels`: by default `sigma_grid()`. `progress` is called after each level. Nothing is kept on
    disk: a run that was cut off starts again. Images are gone through once a level, none is kept. TypeError or ValueError that
    names the level and the image where images, features or distances are not finite or a batch is empty; for levels that are
    no numbers or come twice; for a part without a level, and for one without a denoiser (`Blur`) unless `levels` are told.
    """
    stage_at = stages_of(purifier, levels is None)
    grid = checked_levels(sigma_grid() if levels is None else levels)
    _check_sides(features, attacked, clean)
    with seeded(whole(seed, "seed", 0)), placed("clean"):
        wanted: Any = clean if isinstance(clean, Gaussian | Answered) else features.statistics(clean)
    known: dict[float, Point] = {}
    seen: list[Any] = []

    def measure(level: float) -> float:
        if level not in known:
            with placed(f"attacked, level {level:.4g}"), seeded(seed), _counted(stage_at(level)) as (stage, shown):
                seen[:] = [features.statistics(attacked, stage)]
            known[level] = Point(level, _finite(seen[0].distance(wanted), level), sum(shown))
            if progress is not None:
                progress(known[level])
        return known[level].distance

    if grid[0] == 0:
        measure(0.0)
    above = [level for level in grid if level > 0]
    search(len(above), lambda k: measure(above[k]))
    if not known:
        raise ValueError("search: expected one that measures a level or more, got none measured: see full_sweep")
    points = tuple(known[level] for level in sorted(known))
    width = len(wanted.mean) if isinstance(wanted, Gaussian) else 0
    about = {"features": features.key, "width": width, "attacked": seen[0].count, "clean": wanted.count}
    about |= {"purifier": repr(purifier), "levels": grid, "search": getattr(search, "__name__", repr(search)), "seed": seed}
    about["distance"] = "Fréchet distance" if width else "answers changed"
    return LevelChoice(points, (*_few(about), *(_far(points) if width else ()), *_odd(points, grid)), about)


def _check_sides(features: Features | Answers, attacked: Batches, clean: Batches | Gaussian | Answered) -> None:
    """Raise where images cannot be gone through again, or clean statistics are of another kind than the features."""
    if not isinstance(features, Features | Answers):
        raise TypeError(f"features: expected Features(model, module) or Answers(model), got {type(features).__name__}")
    for name, batches in (("attacked", attacked), ("clean", clean)):
        if isinstance(batches, Iterator):
            raise TypeError(
                f"{name}: expected batches that can be gone through again, got {type(batches).__name__}: use a list"
            )
    other = Answered if isinstance(features, Features) else Gaussian
    if isinstance(clean, other):
        raise TypeError(f"clean: expected what features.statistics gives for {type(features).__name__}, got {other.__name__}")


def _finite(distance: float, level: float) -> float:
    if not math.isfinite(distance):
        raise ValueError(
            f"level {level:.4g}: expected a finite distance, got {distance}: features are too large, look at the model"
        )
    return distance


@contextmanager
def _counted(stage: Stage | None) -> Iterator[tuple[Stage | None, list[int]]]:
    """The stage, and a list that grows by the images of each network call: of its innermost denoisers, else its own."""
    shown: list[int] = []
    parts = [] if stage is None else [part for part in stage.modules() if isinstance(part, Denoiser)]
    inner: list[nn.Module] = [p for p in parts if sum(isinstance(m, Denoiser) for m in p.modules()) == 1]
    if stage is not None and not inner:
        inner = [stage]

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        shown.append(len(output))

    handles = [part.register_forward_hook(note) for part in inner]
    try:
        yield stage, shown
    finally:
        for handle in handles:
            handle.remove()


def _few(about: dict[str, Any]) -> list[str]:
    """Too few images for the width of the features."""
    return [
        f"{name}: {about[name]} images for {about['width']} features: with less than twice as many the distance is too large "
        "at every level and its ranking is uncertain: use more images, or Features(..., dims=...)"
        for name in ("attacked", "clean")
        if about[name] < 2 * about["width"]
    ]


def _far(points: Sequence[Point]) -> list[str]:
    """What no level takes away: where level 0 was measured, a gap that is not the attack's."""
    best, none = min(p.distance for p in points), points[0]
    if none.level > 0 or best <= FAR * none.distance or best == none.distance:
        return []
    return [
        f"far: {best / none.distance:.0%} of the distance remains at the best level: clean images differ by themselves, or are "
        "too few; such choices took too little noise in our measurements: with partners at hand take Answers(model)"
    ]


def _odd(points: Sequence[Point], grid: Sequence[float]) -> list[str]:
    """What in the curve's shape makes the choice doubtful."""
    values = [p.distance for p in points]
    spread, best, found = max(values) - min(values), values.index(min(values)), []
    if spread <= FLAT * max(values):
        found.append(f"flat: the distance falls by no more than {FLAT:.0%} over the levels: the choice says little")
    humps = [values[k] - max(min(values[:k]), min(values[k + 1 :])) for k in range(1, len(values) - 1)]
    if any(hump > WAVE * spread for hump in humps):
        found.append("not one valley: the distance rises and falls again: a search may miss the lowest, use full_sweep")
    if points[best].level == grid[-1] and len(grid) > 1:
        found.append("at the end: the highest level is the best one: try higher ones")
    if points[best].level == 0:
        found.append(
            "level 0: purification brings the features no nearer to clean ones: attack too weak, or purifier too coarse"
        )
    return found
