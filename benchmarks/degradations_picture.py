"""docs/images/degradations.jpg: a bundled photograph in the rain and behind displays.

python benchmarks/degradations_picture.py
"""

from pathlib import Path

import torch

import robustrestore as rr
from robustrestore.data import save_image

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "degradations.jpg"


def main() -> None:
    photograph = rr.assets.photographs()["rocket"]
    scene = rr.degradations.tone_map(rr.degradations.pseudo_hdr(photograph))
    displays = [rr.degradations.UnderDisplay(psf) for psf in (rr.degradations.TOLED(), rr.degradations.POLED())]
    rows = [
        [photograph, rr.degradations.Rain.severity(1)(photograph), rr.degradations.Rain.severity(5, blend="depth")(photograph)],
        [scene, *(display(scene) for display in displays)],
    ]
    save_image(torch.cat([torch.cat(row, dim=3) for row in rows], dim=2)[0].clamp(0, 1), PICTURE)


if __name__ == "__main__":
    main()
