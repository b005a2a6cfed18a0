"""APGD (Croce and Hein, 2020): projected gradient ascent that sets its own step size."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attack import Attack, Model
from ..images import per_image
from ..loss import Loss
from ..losses import Margin, TargetedDLR
from ..modes import generator
from ..search import Search
from ..task import Objective
from ..threat import Threat, as_threat
from .pgd import start

MOMENTUM, ENOUGH_RISES = 0.75, 0.75  # alpha and rho of the paper
FIRST, SHORTER, SHORTEST = 0.22, 0.03, 0.06  # windows between checkpoints, as shares of all steps


class APGD(Attack, name="apgd"):
    """Auto-PGD (Croce and Hein, 2020): momentum, and a step size per image that is halved where progress stalls.

    Climbs the objective, or `loss`: `losses.DLR()` for the paper's second form. `steps` gradients from each of `restarts`
    uniform starts; `samples` > 1 averages over a random defence (EOT). A loss whose values at two images do not compare
    (`comparable = False`) is controlled by the objective itself, as in SEA (Croce et al., 2024).
    """

    def __init__(
        self,
        threat: Threat,
        steps: int = 100,
        restarts: int = 1,
        loss: Loss | None = None,
        samples: int = 1,
        seed: int | None = 0,
    ) -> None:
        for what, value in (("steps", steps), ("restarts", restarts), ("samples", samples)):
            if value < 1:
                raise ValueError(f"{what}: expected a whole number >= 1, got {value}")
        self.threat, self.steps, self.restarts = as_threat(threat), steps, restarts
        self.loss, self.samples, self.seed = loss, samples, seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Ascend from every start."""
        search, own = Search(model, images, objective, self.loss, self.samples), generator(self.seed)
        for restart in range(self.restarts):
            if len(search):
                first = restart == 0
                ascend(search, self.threat, start(self.threat, search.original, own, self.seed), self.steps, clean_first=first)
        return search.result()


class APGDT(Attack, name="apgd_t"):
    """Targeted Auto-PGD (Croce and Hein, 2020): APGD on the targeted DLR towards each of the likeliest wrong classes.

    `targets` classes at most, by their rank at the clean image: for segmentation at each pixel. With fewer than the four
    classes that this loss needs, one APGD on the margin (Carlini and Wagner, 2017).
    """

    answers = ("label", "map")

    def __init__(self, threat: Threat, steps: int = 100, targets: int = 9, samples: int = 1, seed: int | None = 0) -> None:
        if targets < 1:
            raise ValueError(f"targets: expected a whole number >= 1, got {targets}")
        APGD(threat, steps, samples=samples)  # checks them
        self.threat, self.steps, self.targets, self.samples, self.seed = as_threat(threat), steps, targets, samples, seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """One APGD a target class, on the images that are still worth it."""
        search, own = Search(model, images, objective, None, self.samples), generator(self.seed)
        with torch.no_grad():
            classes = model(images[:1]).shape[1] if len(images) else 0
        losses = [TargetedDLR(k) for k in range(1, min(self.targets, classes - 1) + 1)] if classes >= 4 else [Margin()]
        for number, loss in enumerate(losses):
            if not len(search):
                break
            search.climb(loss)
            begin = start(self.threat, search.original, own, self.seed)
            ascend(search, self.threat, begin, self.steps, clean_first=number == 0)
        return search.result()


@dataclass
class _Walk:
    """Where each image is: now and before, with what gradient and step; the best point; the counts of this window."""

    now: Tensor
    before: Tensor
    gradient: Tensor
    size: Tensor
    top: Tensor
    top_gradient: Tensor
    top_gain: Tensor
    gain: Tensor
    rises: Tensor
    halved: Tensor
    checked: Tensor  # the best gain at the last checkpoint

    def at(self, kept: Tensor) -> "_Walk":
        return _Walk(*(value[kept] for value in vars(self).values()))


def ascend(search: Search, threat: Threat, begin: Tensor, steps: int, clean_first: bool = False) -> Tensor | None:
    """`steps` gradients of APGD within `threat` from `begin`; the best points, or None where no image is left.

    The climbed gain decides on step sizes; the objective's own does where a loss is not comparable. With `clean_first` the
    first gradient is taken at the original, so that this one is scored too.
    """

    def ask(images: Tensor) -> tuple[Tensor, Tensor]:
        gain, gradient = search.gradient(images)
        return (gain if search.comparable else search.judged), gradient

    walk = _first(begin, *ask(search.original if clean_first else begin), 2 * threat.eps)
    del begin  # memory: of whole images only what is still needed is held while the model is asked
    window, left = max(1, int(FIRST * steps)), max(1, int(FIRST * steps))
    for step in range(1, steps + 1):
        if (kept := search.drop()) is not None:
            walk = walk.at(kept)
        if not len(search):
            return None
        _move(walk, threat, search.original)
        walk.gradient = walk.top_gradient
        if step == steps:
            break
        _note(walk, *ask(walk.now))
        left -= 1
        if left == 0:
            _halve(walk, window)
            window = max(window - int(SHORTER * steps), int(SHORTEST * steps), 1)
            left = window
    search.look(walk.now)
    search.drop()
    return walk.top


def _first(begin: Tensor, gain: Tensor, gradient: Tensor, size: float) -> _Walk:
    never, none = torch.zeros_like(gain, dtype=torch.bool), torch.zeros_like(gain)
    return _Walk(begin, begin, gradient, torch.full_like(gain, size), begin, gradient, gain, gain, none, never, gain)


def _move(walk: _Walk, threat: Threat, original: Tensor) -> None:
    """One step with momentum; the first has none, for its two points are one."""
    size = per_image(walk.size, walk.now)
    ahead = threat.project(walk.now + size * threat.steepest(walk.gradient), original)
    share = torch.where((walk.now == walk.before).flatten(1).all(1), 1.0, MOMENTUM)
    share = per_image(share.to(walk.now), walk.now)
    moved = walk.now + share * (ahead - walk.now) + (1 - share) * (walk.now - walk.before)
    walk.now, walk.before = threat.project(moved, original), walk.now


def _note(walk: _Walk, gain: Tensor, gradient: Tensor) -> None:
    walk.rises = walk.rises + (gain > walk.gain)
    better = gain > walk.top_gain
    where = per_image(better, walk.now)
    walk.top, walk.top_gradient = torch.where(where, walk.now, walk.top), torch.where(where, gradient, walk.top_gradient)
    walk.top_gain, walk.gain, walk.gradient = torch.where(better, gain, walk.top_gain), gain, gradient


def _halve(walk: _Walk, window: int) -> None:
    """Halve the step, and go on from the best point, where few steps rose or nothing was won at an unchanged size."""
    stalled = (walk.rises <= ENOUGH_RISES * window) | (~walk.halved & (walk.top_gain <= walk.checked))
    where = per_image(stalled, walk.now)
    walk.size = torch.where(stalled, walk.size / 2, walk.size)
    walk.now, walk.gradient = torch.where(where, walk.top, walk.now), torch.where(where, walk.top_gradient, walk.gradient)
    walk.rises, walk.halved, walk.checked = torch.zeros_like(walk.rises), stalled, walk.top_gain
