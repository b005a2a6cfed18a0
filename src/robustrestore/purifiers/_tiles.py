"""What purifiers share that ask a denoiser about large images: tiles, which are recomputed each for itself."""

from typing import Any, NamedTuple

from torch import Tensor

from ..arguments import whole
from ..diffusion import Denoiser
from ..diffusion.recompute import recomputed
from ..images import tiled
from ..replicas import weights_of


class Tiles(NamedTuple):
    """At most `side` pixels a side, None for whole images; blended over `overlap` pixels; so many `at_once`."""

    side: int | None
    overlap: int
    at_once: int | None

    @classmethod
    def checked(cls, side: Any, overlap: Any, at_once: Any) -> "Tiles":
        """In Python's own whole numbers; TypeError or ValueError for what is none, or where tiles do not move on."""
        side = None if side is None else whole(side, "tile")
        overlap, at_once = whole(overlap, "overlap", 0), None if at_once is None else whole(at_once, "tiles_at_once")
        if side is not None and overlap >= side:
            raise ValueError(f"overlap: expected 0 <= overlap < tile, got overlap {overlap} and tile {side}")
        return cls(side, overlap, at_once)

    def cut(self, images: Tensor) -> bool:
        """Whether the images do not fit into one tile."""
        return self.side is not None and max(images.shape[-2:]) > self.side

    def estimate(self, denoiser: Denoiser, noisy: Tensor, sigma: float, checkpointed: bool) -> Tensor:
        """The denoiser's. Where tiles are recomputed no more than one batch of them has a graph at a time."""

        def denoised(pieces: Tensor) -> Tensor:
            out: Tensor = denoiser(pieces, sigma)
            return out

        if self.side is None or not self.cut(noisy):
            return denoised(noisy)
        weights = weights_of(denoiser)
        one = (lambda pieces: recomputed(denoised, [pieces], weights)) if checkpointed else denoised
        return tiled(one, noisy, self.side, self.overlap, self.at_once or 1)
