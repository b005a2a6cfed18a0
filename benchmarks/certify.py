"""What certificates say on real data, and what they cost: a classifier, a segmenter, a restorer.

python benchmarks/certify.py cost [--threads 1]
python benchmarks/certify.py classifier --cifar FOLDER --weights resnet20_cifar10.th --work FOLDER
python benchmarks/certify.py segmenter --camvid FOLDER --work FOLDER
python benchmarks/certify.py restorer --work FOLDER

Each part writes results/certify_PART.json. A killed run goes on in --work. Sizes are chosen for about half an hour of one core
in all, so few images and few draws: radii end where n does.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import certify_cost
import harness
import robustrestore as rr
from robustrestore import certify

SIGMA, ALPHA = 0.25, 0.001


def cost(options: argparse.Namespace) -> dict[str, Any]:
    return certify_cost.cost(options.threads)


def _saved(report: certify.CertifiedReport, work: Path, name: str) -> dict[str, Any]:
    """The summary, once the certificates were derived again from their counts."""
    report.save(work / name)
    wrong = certify.recheck(work / name)
    if wrong:
        raise SystemExit(f"{name}: {wrong[:3]}")
    print(f"{name}\n{report}", flush=True)
    return {"figures": report.summary(), "about": report.about}


def classifier(options: argparse.Namespace) -> dict[str, Any]:
    from certify_data import cifar, held_out, resnet20, trained_under_noise

    plain = resnet20(options.weights)
    kept = options.work / "noise_trained.safetensors"
    if kept.is_file():
        tuned = resnet20(options.weights)
        rr.weights.load_weights(tuned.model, kept)
    else:
        from safetensors.torch import save_file

        tuned = trained_under_noise(plain, cifar(options.cifar, "jpeg_train_4000"), SIGMA, options.epochs)
        options.work.mkdir(parents=True, exist_ok=True)
        save_file(tuned.model.state_dict(), kept)
    denoised = rr.DefendedPipeline(plain, [rr.purifiers.Denoise(rr.assets.prior(), sigma=SIGMA)])
    images, labels, lossless = held_out(options.cifar, options.images)
    batches = [(images[k : k + 25], labels[k : k + 25]) for k in range(0, len(images), 25)]
    rows = {}
    for name, model in {"plain": plain, "trained under noise": tuned, "denoised": denoised}.items():
        smoothed = certify.SmoothedClassifier(model, certify.Gaussian(SIGMA), 128)
        folder = options.work / name.replace(" ", "_")
        report = certify.measure_classifier(smoothed, batches, (50, 500), ALPHA, folder=folder / "progress")
        with torch.no_grad():
            clean = float((model(images).argmax(1) == labels).double().mean())
        rows[name] = {"clean accuracy of the base model": clean, **_saved(report, folder, "report")}
    return {"images": len(images), "lossless images": lossless, "sigma": SIGMA, "epochs": options.epochs, "rows": rows}


def segmenter(options: argparse.Namespace) -> dict[str, Any]:
    dataset = rr.data.CamVid(options.camvid, "val", rr.assets.STREET_SIZE)
    frames = [k * len(dataset) // options.frames for k in range(options.frames)]
    images, labels = (torch.stack(t) for t in zip(*(dataset[k] for k in frames), strict=True))
    network, task = rr.assets.street_segmenter(), rr.tasks.Segmentation()
    rows = {}
    for name, sigma, stages in (
        ("plain, sigma 0.1", 0.1, []),
        ("denoised, sigma 0.1", 0.1, [rr.purifiers.Denoise(rr.assets.prior(), sigma=0.1)]),
        ("denoised, sigma 0.25", 0.25, [rr.purifiers.Denoise(rr.assets.prior(), sigma=0.25)]),
    ):
        model = rr.DefendedPipeline(network, stages).eval()
        smoothed = certify.SmoothedSegmenter(model, certify.Gaussian(sigma), chunk=4)
        folder = options.work / name.replace(" ", "_").replace(",", "")
        batches = [(images[k : k + 1], labels[k : k + 1]) for k in range(len(images))]
        report = certify.measure_segmenter(smoothed, batches, (10, 100), ALPHA, folder=folder / "progress")
        with torch.no_grad():
            outputs = torch.cat([model(x[None]) for x in images])
        clean = {m.name: m.value(m.measure(outputs, labels).double().numpy()) for m in task.metrics()}
        rows[name] = {"base model without noise": clean, **_saved(report, folder, "report")}
    return {"frames": frames, "tau": 0.75, "rows": rows}


class _MeanOf(nn.Module):
    """The mean restored image over fixed draws, for an attacker who knows the noise's law."""

    def __init__(self, model: nn.Module, sigma: float, shape: tuple[int, ...], draws: int) -> None:
        super().__init__()
        self.model, own = model, torch.Generator().manual_seed(77)
        self.noise = sigma * torch.randn(draws, *shape, generator=own)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.model(x + self.noise).clamp(0, 1).mean(0) for x in images])


def _median_psnr(model: nn.Module, sigma: float, image: Tensor, target: Tensor, seed: int) -> float:
    """Of the median of 56 draws of its own, the smoothed map as one would run it."""
    own = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        draws = torch.cat([model(image + sigma * torch.randn(8, *image.shape, generator=own)).clamp(0, 1) for _ in range(7)])
    return 10 * math.log10(1 / float((draws.median(0).values - target).double().square().mean()))


def restorer(options: argparse.Namespace) -> dict[str, Any]:
    sigma, eps = 0.1, [0.0, 0.05, 0.1]
    network, rain = rr.restorers.UNet.derain(), rr.degradations.Rain(seed=0)
    clean = torch.cat(list(rr.assets.photographs().values()))[..., ::2, ::2]
    rainy = rain(clean)
    rows = {}
    for name, stages in (("plain", []), ("denoised", [rr.purifiers.Denoise(rr.assets.prior(), sigma=sigma)])):
        model = rr.DefendedPipeline(network, stages).eval()
        smoothed = certify.SmoothedRestorer(model, certify.Gaussian(sigma), chunk=8)
        batches = [(rainy[k : k + 1], clean[k : k + 1]) for k in range(len(clean))]
        report = certify.measure_restorer(smoothed, batches, eps, 300, ALPHA, folder=options.work / name / "progress")
        attacked: dict[str, list[float]] = {}
        objective_of = rr.tasks.Restoration().untargeted
        with rr.images.trusted():
            for size in eps:
                averaged = _MeanOf(model, sigma, tuple(clean.shape[1:]), 8)
                pgd = rr.attacks.PGD(rr.L2(size), steps=5)
                moved = rainy if size == 0 else pgd(averaged, rainy, objective_of(clean))
                triples = zip(moved, clean, range(4), strict=True)
                attacked[certify.bounds.written(size)] = [_median_psnr(model, sigma, x, y, seed) for x, y, seed in triples]
        certified = {key: [row["certified"][key] for row in report.rows] for key in attacked}
        above = [c - a for key in attacked for c, a in zip(certified[key], attacked[key], strict=True)]
        with torch.no_grad():
            bare = [
                10 * math.log10(1 / float((network(x[None])[0] - y).square().mean())) for x, y in zip(rainy, clean, strict=True)
            ]
        rows[name] = {"bare network": bare, "under PGD": attacked, "certified": certified, "most above": max(above)}
        rows[name] |= _saved(report, options.work / name, "report")
    return {
        "images": len(clean),
        "size": list(clean.shape[-2:]),
        "sigma": sigma,
        "attack": "PGD-5 in L2 on the mean of 8 draws",
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("cost", "classifier", "segmenter", "restorer", "memory"))
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--camvid", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/certify"))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--n", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part == "memory":
        return certify_cost.memory(options.n)
    options.work = options.work / options.part
    started = time.process_time()
    parts = {"cost": cost, "classifier": classifier, "segmenter": segmenter, "restorer": restorer}
    found = parts[options.part](options)
    about = {**harness.machine(), "threads": options.threads, "seed": 0, "CPU seconds": round(time.process_time() - started)}
    harness.write(f"certify_{options.part}", {"about": about, **found})


if __name__ == "__main__":
    main()
