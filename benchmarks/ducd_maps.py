"""The part `maps` of ducd.py: label maps and restored images by the same recipe, per pixel: a DUCD-style extension of ours.

The targets are the bundled street segmenter and derain network behind HTTP, the surrogates small networks of other shapes.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ducd_asking as asking
import ducd_parts
import robustrestore as rr
from robustrestore import certify, oracle
from robustrestore.recipe import training

NOISE = certify.Gaussian(0.1)
FRAMES, PATCHES, STEPS = 60, 60, 200
EPS = (0.0, 0.05, 0.1)


class Segmenter(nn.Module):
    """Four convolutions, the third one dilated, at a quarter of the size."""

    def __init__(self, classes: int = 11, width: int = 32) -> None:
        super().__init__()
        first = [nn.Conv2d(3, width, 5, 2, 2), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()]
        more = [
            nn.Conv2d(width, width, 3, 1, 4, dilation=4),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 8, dilation=8),
            nn.ReLU(),
        ]
        self.body = nn.Sequential(*first, *more, nn.Conv2d(width, classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(self.body(images - 0.5), images.shape[2:], mode="bilinear", align_corners=False)


def _learnt(recipe: rr.recipes.Distill, images: Tensor, place: Path, steps: int, batch: int) -> nn.Module:
    def learn() -> None:
        own, how = torch.Generator().manual_seed(0), rr.AdamW(lr=2e-3)
        with training(recipe) as weights, rr.seeded(0):
            optimiser = how.make(weights)
            for step in range(steps):
                optimiser.param_groups[0]["lr"] = how.rate(step, steps)
                loss = recipe(rr.Batch(images[torch.randint(0, len(images), (batch,), generator=own)]))["loss"]
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()

    return ducd_parts.kept(place, recipe.trained, learn)


def _pixels(found: Tensor, wanted: Tensor) -> float:
    return float((found.argmax(1) == wanted).double().mean())


def _segmented(options: argparse.Namespace) -> dict[str, Any]:
    """The street segmenter: agreement a pixel, mean IoU, and SegCertify of surrogate and target."""
    train, val = (rr.data.CamVid(options.data / "camvid", part, rr.assets.STREET_SIZE) for part in ("train", "val"))
    count, tests = min(FRAMES, options.queries), max(1, min(2, options.images // 100))
    images = torch.stack([train[k * len(train) // count][0] for k in range(count)])
    frames, labels = (torch.stack(t) for t in zip(*(val[k * len(val) // tests] for k in range(tests)), strict=True))
    with asking.served("street", options, 0) as url:
        asked = asking.asking(url, options.work / "street.db", budget=count)
        asked(images)
        with rr.seeded(0):
            recipe = rr.recipes.Distill(asked, Segmenter(), rr.tasks.Segmentation(), NOISE)
        model = _learnt(recipe, images, options.work / "street-surrogate.safetensors", min(STEPS, options.steps), 2)
        judge = asking.asking(url, None)
        told, rows = judge(frames).argmax(1), {}
        noisy = frames + NOISE.sample_like(frames, torch.Generator().manual_seed(0))
        with torch.no_grad(), rr.images.trusted():
            agreed = {"clean": _pixels(model(frames), told), "noisy": _pixels(model(noisy), told)}
        for name, one in {"surrogate": model, "target by queries": judge}.items():
            smoothed = certify.SmoothedSegmenter(one, NOISE, chunk=4)
            batches = list(zip(frames.split(1), labels.split(1), strict=True))
            folder = options.work / f"street-{name.replace(' ', '-')}"
            report = certify.measure_segmenter(smoothed, batches, (10, 100), 0.001, folder=folder)
            with torch.no_grad():
                outputs = one(frames)
            metric = rr.tasks.Segmentation().metrics()[0]
            clean = float(metric.value(metric.measure(outputs, labels).double().numpy()))
            rows[name] = {"clean": clean, "metric": metric.name, "figures": report.summary(), "queries an image": 0}
        rows["target by queries"]["queries an image"] = 110
    return {"queries": asked.sent, "frames": tests, "agreement": agreed, "rows": rows}


def _patches(folder: Path, count: int, side: int = 64) -> Tensor:
    """Squares from the middle of photographs."""
    files = sorted(rr.data.find_images(folder))[:count]
    found = [rr.data.load_image(file) for file in files]
    middle = [((x.shape[-2] - side) // 2, (x.shape[-1] - side) // 2) for x in found]
    return torch.stack(
        [x[..., t : t + side, left : left + side].view(3, side, side) for x, (t, left) in zip(found, middle, strict=True)]
    )


def _restored(options: argparse.Namespace) -> dict[str, Any]:
    """The derain network: PSNR against the target's answer, and the certified PSNR of both under median smoothing."""
    count, tests = min(PATCHES, options.queries), max(2, min(3, options.images // 80))
    clean, rain = _patches(options.data / "bsds500_test", count + tests), rr.degradations.Rain(seed=0)
    rainy = torch.cat([rain(part) for part in clean.split(1)])
    images, held, truth = rainy[:count], rainy[count:], clean[count:]
    with asking.served("derain", options, 0) as url:
        asked = asking.asking(url, options.work / "derain.db", oracle.Images(), budget=count)
        asked(images)
        with rr.seeded(0):
            recipe = rr.recipes.Distill(asked, rr.restorers.UNet(width=8), rr.tasks.Restoration(), NOISE)
        model = _learnt(recipe, images, options.work / "derain-surrogate.safetensors", min(STEPS, options.steps), 8)
        judge, rows = asking.asking(url, None, oracle.Images()), {}
        with torch.no_grad():
            error = float((model(held) - judge(held)).square().mean())
        for name, one in {"surrogate": model, "target by queries": judge}.items():
            smoothed = certify.SmoothedRestorer(one, NOISE, chunk=32)
            folder = options.work / f"derain-{name.replace(' ', '-')}"
            batches = list(zip(held.split(1), truth.split(1), strict=True))
            report = certify.measure_restorer(smoothed, batches, EPS, 200, 0.001, folder=folder)
            rows[name] = {"figures": report.summary(), "queries an image": 0 if one is model else 250}
    return {
        "queries": asked.sent,
        "images": tests,
        "PSNR against the target's answers": -10 * torch.tensor(error).log10().item(),
        "rows": rows,
    }


def maps(options: argparse.Namespace) -> dict[str, Any]:
    """Both."""
    return {"noise": repr(NOISE), "segmentation": _segmented(options), "restoration": _restored(options)}
