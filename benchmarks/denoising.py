"""How good the bundled priors are: PSNR at six noise levels against filters, FFDNet and DnCNN, on held-out photographs.

python benchmarks/denoising.py --images FOLDER [--ffdnet ffdnet_color.safetensors] [--dncnn dncnn_color_blind.safetensors]

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

LEVELS = {"0.05": 0.05, "0.1": 0.1, "0.2": 0.2, "15": 15 / 255, "25": 25 / 255, "50": 50 / 255}  # the last three are customary
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
    parser.add_argument("--dncnn", type=Path, help="the blind one of colour images, trained for levels up to 55 of 255")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    clean = [rr.data.load_image(path)[None] for path in rr.data.find_images(options.images)]
    priors = {name: rr.assets.prior(name).to(options.device) for name in ("photographs", "open")}
    methods = candidates()
    for name, prior in priors.items():
        methods[f"bundled prior, {name}"] = [lambda x, s, prior=prior: prior(x.to(options.device), s).cpu()]
    if options.dncnn:
        from robustrestore.integrations.gaussian import load_dncnn

        blind = load_dncnn(options.dncnn).to(options.device)
        methods["DnCNN, blind (published)"] = [lambda x, s: blind(x.to(options.device), s).cpu()]
    if options.ffdnet:
        import ffdnet

        network = ffdnet.load(options.ffdnet).to(options.device)
        methods["FFDNet (published)"] = [
            lambda x, s: network(x.to(options.device), torch.tensor([s], device=options.device)).cpu()
        ]
    rows: dict[str, dict[str, object]] = {name: {} for name in ["noisy", *methods]}
    for level, sigma in LEVELS.items():
        spoiled = noisy(clean, sigma, options.seed)
        with torch.no_grad():
            found = {"noisy": psnrs(lambda x, _: x, spoiled, clean, sigma)}
            for name, variants in methods.items():
                found[name] = max((psnrs(v, spoiled, clean, sigma) for v in variants), key=lambda s: ratio(s.sum(axis=0)))
        for name, statistics in found.items():
            low, high = bootstrap(ratio)(statistics)
            rows[name][level] = {
                "psnr": round(ratio(statistics.sum(axis=0)), 3),
                "interval": [round(low, 3), round(high, 3)],
            }
    about = {**harness.machine(options.device), "images": len(clean), "seed": options.seed, "clamped": "outputs to [0, 1]"}
    harness.write("denoising", {"about": about, "psnr": rows})
    for name, row in rows.items():
        print(f"{name:20s}", *(f"{row[level]['psnr']:7.2f}" for level in LEVELS))


if __name__ == "__main__":
    main()
