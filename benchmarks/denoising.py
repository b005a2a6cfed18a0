"""How good the bundled prior is: PSNR at sigma 15, 25, 50 of 255 against filters and FFDNet, on held-out photographs.

python benchmarks/denoising.py --images FOLDER [--ffdnet ffdnet_color.safetensors] [--device cuda]

The filters' strengths are chosen per level on the test images themselves, which favours them.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from skimage.restoration import denoise_bilateral, denoise_nl_means
from torch import Tensor

import harness
import robustrestore as rr
from robustrestore.metrics import bootstrap, ratio

LEVELS = (15, 25, 50)
Filter = Callable[[Tensor, float], Tensor]


def noisy(images: list[Tensor], sigma: float, seed: int) -> list[Tensor]:
    """The same noise for every method."""
    own = torch.Generator().manual_seed(seed)
    return [image + sigma * torch.randn(image.shape, generator=own) for image in images]


def as_numpy(image: Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy().astype(np.float64)


def as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def bilateral(spread: float, space: float) -> Filter:
    return lambda x, sigma: as_tensor(
        denoise_bilateral(as_numpy(x.clamp(0, 1)), sigma_color=spread * sigma, sigma_spatial=space, channel_axis=-1)
    )


def non_local(strength: float) -> Filter:
    return lambda x, sigma: as_tensor(
        denoise_nl_means(
            as_numpy(x), patch_size=5, patch_distance=6, h=strength * sigma, sigma=sigma, fast_mode=True, channel_axis=-1
        )
    )


def candidates() -> dict[str, list[Filter]]:
    """Each filter at several strengths."""
    return {
        "Gaussian blur": [lambda x, _, s=s: rr.purifiers.Blur(s).run(x) for s in (0.4, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2)],
        "bilateral": [bilateral(c, s) for c in (1.5, 2.5, 4.0) for s in (1.0, 2.0)],
        "non-local means": [non_local(h) for h in (0.4, 0.6, 0.8, 1.0)],
    }


def psnrs(method: Filter, spoiled: list[Tensor], clean: list[Tensor], sigma: float) -> np.ndarray:
    metric = rr.metrics.psnr()
    return np.concatenate([metric.measure(method(x, sigma), y).numpy() for x, y in zip(spoiled, clean, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--ffdnet", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    clean = [rr.data.load_image(path)[None] for path in rr.data.find_images(options.images)]
    prior = rr.assets.prior().to(options.device)
    methods = candidates()
    methods["bundled prior"] = [lambda x, s: prior(x.to(options.device), s).cpu()]
    if options.ffdnet:
        import ffdnet

        network = ffdnet.load(options.ffdnet).to(options.device)
        methods["FFDNet (published)"] = [
            lambda x, s: network(x.to(options.device), torch.tensor([s], device=options.device)).cpu()
        ]
    rows: dict[str, dict[str, object]] = {name: {} for name in ["noisy", *methods]}
    for level in LEVELS:
        sigma = level / 255
        spoiled = noisy(clean, sigma, options.seed)
        with torch.no_grad():
            found = {"noisy": psnrs(lambda x, _: x, spoiled, clean, sigma)}
            for name, variants in methods.items():
                found[name] = max((psnrs(v, spoiled, clean, sigma) for v in variants), key=lambda s: ratio(s.sum(axis=0)))
        for name, statistics in found.items():
            low, high = bootstrap(ratio)(statistics)
            rows[name][str(level)] = {
                "psnr": round(ratio(statistics.sum(axis=0)), 3),
                "interval": [round(low, 3), round(high, 3)],
            }
    about = {**harness.machine(options.device), "images": len(clean), "seed": options.seed, "clamped": "outputs to [0, 1]"}
    harness.write("denoising", {"about": about, "psnr": rows})
    for name, row in rows.items():
        print(f"{name:20s}", *(f"{row[str(level)]['psnr']:7.2f}" for level in LEVELS))


if __name__ == "__main__":
    main()
