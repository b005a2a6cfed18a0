"""A folder of image files through stages, resumable."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .data.image_file import ImageFileError, find_images, load_image, save_image
from .files import write_text
from .modes import evaluating
from .stage import Stage
from .weights import fingerprint

SETTINGS = ".purified.json"


@dataclass
class Outcome:
    """What became of the files: written now, there already, and (file, reason) for those that could not be read."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)


def purify_folder(
    source: str | Path,
    target: str | Path,
    stages: Sequence[Stage],
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Write every image below `source` as PNG to the same relative place below `target`, after all `stages`.

    Files that are there are not made again: a killed run goes on where it stopped. Settings are kept in
    `target/.purified.json`; other settings for the same folder raise ValueError. A file that cannot be read is named in
    the outcome and passed over. `progress(done, total)` is called after each.
    """
    source, target = Path(source), Path(target)
    if source.resolve() == target.resolve():
        raise ValueError(f"{target}: expected another folder than the source, so that no original is written over")
    if source.resolve().is_relative_to(target.resolve()):
        raise ValueError(f"{target}: expected a folder that does not hold the source {source}: choose another one")
    files = [f for f in find_images(source) if not f.resolve().is_relative_to(target.resolve())]
    places = _places(files, source, target)
    if not (target / SETTINGS).is_file() and (strange := [p for p in places.values() if p.exists()]):
        raise ValueError(f"{target}: expected no images of others there, got {strange[0]}: choose another folder")
    _same_settings(target / SETTINGS, [f"{stage!r} {fingerprint(stage)[:12]}" for stage in stages])
    outcome = Outcome()
    for done, (file, place) in enumerate(places.items(), 1):
        if place.exists():
            outcome.skipped.append(place)
        else:
            try:
                _purify(file, place, stages, device)
                outcome.written.append(place)
            except (ImageFileError, OSError) as error:
                outcome.failed.append((file, str(error)))
        progress(done, len(files))
    return outcome


def _places(files: Sequence[Path], source: Path, target: Path) -> dict[Path, Path]:
    """Where each file goes; two files of one stem keep their suffix in the name."""
    stems = Counter(file.with_suffix("") for file in files)
    places = {
        file: target / file.relative_to(source).with_name(f"{file.stem if stems[file.with_suffix('')] == 1 else file.name}.png")
        for file in files
    }
    if twice := [place for place, count in Counter(places.values()).items() if count > 1]:
        raise ValueError(f"{source}: expected one result a file, got two for {twice[0].name}: rename one of its sources")
    return places


def _purify(file: Path, place: Path, stages: Sequence[Stage], device: str) -> None:
    images = load_image(file)[None].to(device)
    with torch.no_grad(), evaluating(*stages):
        for stage in stages:
            images = stage(images)
    place.parent.mkdir(parents=True, exist_ok=True)
    save_image(images[0], place)


def _same_settings(file: Path, stages: list[str]) -> None:
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before != stages:
            raise ValueError(f"{file.parent}: holds images made with {before}, not {stages}: choose another folder")
    write_text(file, json.dumps(stages))
