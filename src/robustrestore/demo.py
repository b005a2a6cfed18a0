"""The main job on real images, with what the package carries."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from . import assets, attacks, degradations, purifiers, restorers, tasks
from .data import CamVid
from .evaluate import evaluate
from .pipeline import DefendedPipeline
from .report import Report
from .threat import Linf

Batches = Iterable[tuple[Tensor, Tensor]]
Track = Callable[[list[tuple[Tensor, Tensor]], str], Batches]
EPS, STEPS = 4 / 255, 10


def restoration(out: Path, device: str, track: Track) -> Report:
    """Rain on photographs, taken out by the bundled derain network; the attacker spoils its work within 4/255."""
    rain = degradations.Rain()
    photographs = list(assets.photographs().values())
    pairs = [(rain(p.to(device), [k]), p.to(device)) for k, p in enumerate(photographs)]
    model = restorers.UNet.derain().to(device)
    pipeline = DefendedPipeline(model, [purifiers.Diffusion.default().to(device)])
    return _measure(pipeline, pairs, tasks.Restoration(), out, lambda b: track(b, "photographs"))


def segmentation(camvid: Path, out: Path, device: str, track: Track, limit: int = 4) -> Report:
    """Rain on CamVid frames in front of the bundled segmenter; purifier and derain network stand before it."""
    frames = CamVid(camvid, "val", assets.STREET_SIZE)
    rain = degradations.Rain(brightness=0.35, haze=0.1, length=10)
    pairs = []
    for k in range(0, len(frames), max(1, len(frames) // limit)):
        image, label = frames[k]
        pairs.append((rain(image[None].to(device), [k]), label[None].to(device)))
    stages = [purifiers.Diffusion.default().to(device), restorers.UNet.derain().to(device)]
    pipeline = DefendedPipeline(assets.street_segmenter().to(device), stages)
    task = tasks.Segmentation(palette=[list(colour) for colour in CamVid.PALETTE])
    return _measure(pipeline, pairs[:limit], task, out, lambda b: track(b, "street scenes"))


def attack() -> attacks.PGD:
    """PGD-10 at 4/255."""
    return attacks.PGD(Linf(EPS), steps=STEPS)


def _measure(pipeline: DefendedPipeline, batches: Any, task: Any, out: Path, track: Callable[[Any], Batches]) -> Report:
    baselines = [purifiers.Blur(), purifiers.Jpeg()]
    report = evaluate(pipeline, track(batches), task, [attack()], baselines=baselines, folder=out / "progress")
    report.save(out, "robustrestore demo: what the defence is worth")
    return report
