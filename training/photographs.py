"""Make the four bundled photographs from those that scikit-image's package carries.

python training/photographs.py
"""

from pathlib import Path

import skimage.data
from PIL import Image

SIZE = (256, 192)
FOLDER = Path(__file__).parents[1] / "src" / "robustrestore" / "assets" / "photographs"


def main() -> None:
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        image = Image.fromarray(getattr(skimage.data, name)())
        width = min(image.width, image.height * 4 // 3)
        height = width * 3 // 4
        left, top = (image.width - width) // 2, (image.height - height) // 3
        piece = image.crop((left, top, left + width, top + height)).resize(SIZE, Image.Resampling.LANCZOS)
        FOLDER.mkdir(parents=True, exist_ok=True)
        piece.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
