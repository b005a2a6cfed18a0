"""LiRA (Carlini et al., 2022): likelihood ratios from shadow models that did and did not see an image."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..modes import generator
from .attacks import Ask, MembershipAttack, Model, Pool, asking, log_odds

FEW = 32  # our choice: with fewer shadows on a side one variance serves all images, as the paper advises for few


@dataclass(frozen=True)
class Shadow:
    """A model trained as the target was, and which images of the pool, bool [N], it was trained on."""

    model: Model
    inside: Tensor


def train_shadows(train: Callable[[Tensor], Model], size: int, count: int, seed: int = 0) -> list[Shadow]:
    """`count` (even) shadows from `train(places)`, which trains one on these places of the pool of `size` images.

    Each image is in exactly half of them. `train` does all that was done for the target: for a surrogate it trains a target and
    distils it too, or the attack is of another model.
    """
    if count < 2 or count % 2 or size < 2:
        raise ValueError(f"expected an even number of shadows and two images or more, got {count} and {size}")
    own = generator(seed)
    order = torch.stack([torch.rand(count, generator=own).argsort() for _ in range(size)])
    masks = (order < count // 2).T
    return [Shadow(train(mask.nonzero()[:, 0]), mask) for mask in masks]


class LiRA(MembershipAttack):
    """log N(phi; in) - log N(phi; out), phi = log(p_y / (1 - p_y)), Gaussians of shadow models (Carlini et al., 2022).

    Two shadows at least have to be inside and outside for each image; if no image has any inside it is the paper's offline
    attack, the probability of a lower phi outside. With fewer than `FEW` on a side one variance is pooled over images.
    """

    def __init__(self, shadows: Sequence[Shadow]) -> None:
        if not shadows or not all(isinstance(one, Shadow) for one in shadows):
            raise TypeError("shadows: expected Shadow(model, inside) for several models, or privacy.train_shadows(...)")
        self.shadows = list(shadows)

    def __repr__(self) -> str:
        return f"LiRA({len(self.shadows)} shadows)"

    def score(self, pool: Pool, outputs: Tensor, ask: Ask) -> Tensor:
        """The ratio, in nats, or the normal quantile of that probability."""
        inside = torch.stack([shadow.inside.cpu() for shadow in self.shadows])
        if inside.shape[1] != len(pool.labels) or inside.dtype != torch.bool:
            raise ValueError(
                f"shadows: expected bool masks of the {len(pool.labels)} images, members first, got {list(inside.shape[1:])}"
            )
        phis = torch.stack([log_odds(asking(shadow.model)(pool.images).cpu(), pool.labels) for shadow in self.shadows])
        own, counts = log_odds(outputs, pool.labels), inside.sum(0)
        outer = _fitted(phis, ~inside)
        if int(counts.max()) == 0:
            return (own - outer[0]) / outer[1]
        inner = _fitted(phis, inside)
        return _log_normal(own, *inner) - _log_normal(own, *outer)


def _fitted(phis: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [N] over the chosen shadows."""
    counts = chosen.sum(0)
    if int(counts.min()) < 2:
        raise ValueError(
            f"shadows: expected two or more inside and outside for each image, got {int(counts.min())} for some: train more, "
            "or take privacy.train_shadows"
        )
    mean = phis.where(chosen, torch.zeros(())).sum(0) / counts
    squares = (phis - mean).where(chosen, torch.zeros(())).square().sum(0)
    variance = squares / (counts - 1)
    if int(counts.min()) < FEW:
        variance = (squares.sum() / (counts - 1).sum()).expand_as(variance)
    return mean, variance.clamp(min=1e-12).sqrt()


def _log_normal(value: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    return -0.5 * ((value - mean) / spread).square() - spread.log() - 0.5 * math.log(2 * math.pi)
