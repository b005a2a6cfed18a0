"""Square (Andriushchenko et al., 2020): random search by squares, with a model's scores alone."""

import math
from typing import Protocol

import torch
from torch import Tensor

from ..black_box import BlackBox, Draws, Oracle
from ..images import per_image
from ..loss import Loss
from ..threat import L2, Linf, NormalisedLinf, Threat

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # after so many of 10,000 queries the squares get smaller
TILES, NARROWEST = 5, 3  # L2: bumps along the shorter side at the start; the smallest window
TINY = 1e-12


class Square(BlackBox, name="square"):
    """Square Attack (Andriushchenko, Croce, Flammarion and Hein, 2020) for `Linf` and `L2`: one score an image and query.

    Starts from vertical stripes (L2: a grid of bumps); each query then rewrites one square of the change, and what raises the
    score stays. `share`: of the pixels, how many the first squares cover, 0.8 in AutoAttack; it is halved on the authors'
    schedule, scaled to `queries`. `loss`: what is climbed, `losses.Margin()` in the paper; None, the objective's own gain.
    With a `seed` every image gets the same squares whatever its batch; None draws position and sign for each.
    """

    def __init__(
        self, threat: Threat, queries: int = 5000, share: float = 0.8, loss: Loss | None = None, seed: int | None = 0
    ) -> None:
        super().__init__(threat, queries, loss)
        if not 0 < share <= 1:
            raise ValueError(f"share: expected a share of the pixels in (0, 1], got {share}")
        self.share, self.seed = float(share), seed
        _moves(self.threat)

    def hunt(self, oracle: Oracle, gain: Tensor) -> None:
        """Start from the pattern, whatever the clean image scores; then one square after the other."""
        draws, moves = Draws(self.seed), _moves(self.threat)
        current = self.threat.project(oracle.original + moves.start(oracle.original, draws), oracle.original)
        best, asked = oracle.ask(current), 0
        while True:
            if (kept := oracle.drop()) is not None:
                current, best = current[kept], best[kept]
            if not oracle.left:
                return
            pixels = current.shape[2] * current.shape[3] * self._covered(asked)
            moved = oracle.original + moves.change(current - oracle.original, math.sqrt(pixels), draws)
            candidate = self.threat.project(moved, oracle.original)
            gain, asked = oracle.ask(candidate), asked + 1
            better = gain > best
            current, best = torch.where(per_image(better, current), candidate, current), torch.where(better, gain, best)

    def _covered(self, asked: int) -> float:
        """The share of the pixels that a square covers after so many squares."""
        return self.share / float(2 ** sum(asked / self.queries * 10_000 > query for query in HALVINGS))


class _Moves(Protocol):
    """What a norm makes of the idea: a first change [n, C, H, W], and another one that differs within a square."""

    def start(self, images: Tensor, draws: Draws) -> Tensor: ...

    def change(self, delta: Tensor, side: float, draws: Draws) -> Tensor: ...


def _moves(threat: Threat) -> _Moves:
    if isinstance(threat, Linf | NormalisedLinf):
        return _Flat(threat)
    if isinstance(threat, L2):
        return _Bumps(threat)
    raise TypeError(
        f"threat: expected Linf or L2, for which there are squares, got {threat!r}: use attacks.SimBA or attacks.NES"
    )


class _Flat:
    """Linf: all of a square as far up or down as values may go, one sign a channel."""

    def __init__(self, threat: Threat) -> None:
        self.threat = threat

    def start(self, images: Tensor, draws: Draws) -> Tensor:
        """Vertical stripes, one pixel wide."""
        return self._farthest(draws.signs(images, images.shape[1], 1, images.shape[3])).expand_as(images)

    def change(self, delta: Tensor, side: float, draws: Draws) -> Tensor:
        """`delta` with one square rewritten."""
        window = _Window(delta, min(max(1, round(side)), *delta.shape[2:]), draws)
        return window.paste(delta, self._farthest(draws.signs(delta, delta.shape[1], 1, 1)).flatten(2))

    def _farthest(self, signs: Tensor) -> Tensor:
        return self.threat.eps * self.threat.steepest(signs)


class _Bumps:
    """L2: two hills of opposite sign in a square; what a second square gives up is spent there."""

    def __init__(self, threat: Threat) -> None:
        self.threat = threat

    def start(self, images: Tensor, draws: Draws) -> Tensor:
        """A grid of bumps over the image, at length eps."""
        channels, height, width = images.shape[1:]
        side = max(1, min(height, width) // TILES)
        rows, columns = height // side, width // side
        hills = _hills(side).to(images)[draws.below(2, images, 1, rows, columns)]
        tiles = hills * draws.signs(images, channels, rows, columns)[..., None, None]
        pattern = torch.zeros_like(images)
        pattern[:, :, : rows * side, : columns * side] = tiles.transpose(3, 4).flatten(4).flatten(2, 3)
        return self.threat.eps * self.threat.steepest(pattern)

    def change(self, delta: Tensor, side: float, draws: Draws) -> Tensor:
        """`delta` with one window emptied and a bump added in another one; the length goes up to eps, and no further."""
        channels, height, width = delta.shape[1:]
        odd = min(max(NARROWEST, round(side) // 2 * 2 + 1), (min(height, width) - 1) // 2 * 2 + 1)
        into, out_of = _Window(delta, odd, draws), _Window(delta, odd, draws)
        rest = into.paste(out_of.paste(delta, delta.new_zeros(())), delta.new_zeros(()))
        freed = (_energy(delta) - _energy(rest)).clamp(min=0)
        unused = (self.threat.eps**2 - _energy(delta).sum(1, keepdim=True)).clamp(min=0) / channels
        hill = _hills(odd).to(delta)[draws.below(2, delta)].flatten(1)[:, None]
        old = into.cut(delta)
        fresh = hill * draws.signs(delta, channels, 1) + old / old.norm(dim=2, keepdim=True).clamp(min=TINY)
        length = (freed + unused).sqrt()[..., None]
        return into.paste(rest, fresh / fresh.norm(dim=2, keepdim=True).clamp(min=TINY) * length)


class _Window:
    """A square of one size at a random place of each image."""

    def __init__(self, images: Tensor, side: int, draws: Draws) -> None:
        height, width = images.shape[2:]
        top = draws.below(height - side + 1, images, 1, 1)
        left = draws.below(width - side + 1, images, 1, 1)
        steps = torch.arange(side, device=images.device)
        places = (top + steps[:, None]) * width + left + steps
        self.places = places.flatten(1)[:, None].expand(-1, images.shape[1], -1)

    def cut(self, images: Tensor) -> Tensor:
        """What stands in the square [n, C, side * side]."""
        return images.flatten(2).gather(2, self.places)

    def paste(self, images: Tensor, values: Tensor) -> Tensor:
        """`images` with `values`, broadcast to [n, C, side * side], in the square."""
        return images.flatten(2).scatter(2, self.places, values.expand(self.places.shape)).view_as(images)


def _energy(delta: Tensor) -> Tensor:
    """The squared length of each channel [n, C]."""
    return delta.square().flatten(2).sum(2)


def _hills(side: int) -> Tensor:
    """A hill above a valley, and the same on its side [2, side, side], each of length 1."""
    upright = torch.cat([_hill(side // 2, side), -_hill(side - side // 2, side)])
    upright = upright / upright.norm()
    return torch.stack([upright, upright.T])


def _hill(rows: int, columns: int) -> Tensor:
    """Square terraces around the middle: the one k pixels out adds 1 / (k + 1)^2; length 1."""
    down, across = torch.arange(rows) - rows // 2, torch.arange(columns) - columns // 2
    out = torch.maximum(down.abs()[:, None], across.abs()[None])
    terraces = 1 / torch.arange(1, max(rows, columns) // 2 + 2).square()
    heights = terraces.flip(0).cumsum(0).flip(0)[out]
    length: Tensor = torch.linalg.vector_norm(heights).clamp(min=TINY)
    return heights / length
