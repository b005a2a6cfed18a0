"""One image file through a defence: rain and an attack's residue out, a PNG written.

Any size; the network sees tiles of at most 128 pixels on a side.
"""

from pathlib import Path

import torch

import robustrestore as rr


def main(source: Path | None = None, target: Path = Path("runs/purified.png")) -> None:
    image = rr.assets.photographs()["coffee"] if source is None else rr.data.load_image(source)[None]
    rainy = rr.degradations.Rain()(image)
    stages = [rr.purifiers.Diffusion.default().replace(sigma=0.05, tile=128), rr.restorers.UNet.derain()]
    with torch.no_grad():
        cleaned = rainy
        for stage in stages:
            cleaned = stage(cleaned)
    target.parent.mkdir(parents=True, exist_ok=True)
    rr.data.save_image(cleaned[0], target)
    print(f"Wrote {target}")


if __name__ == "__main__":
    main()
