"""ALMA-prox (Rony, Pesquet and Ben Ayed, 2023)."""

from dataclasses import dataclass
from dataclasses import replace as changed

import torch
from torch import Tensor

from ..attack import Attack, Model
from ..images import per_image
from ..losses import DLR, Margin
from ..search import Search
from ..task import Objective
from ..threat import Linf, Threat, as_threat

EVERY, ENOUGH, GROWTH, LARGEST = 10, 0.95, 2.0, 1e4  # steps between checks, gain asked for, growth of the penalty, its cap
AVERAGE, FINAL_RATE = 0.8, 0.1  # of multipliers and squared gradients; the last step size over the first
SCALES, SCALE_MOVE = (0.1, 1.0), 0.02
FIRST_PENALTY, TOLERANCE, TINY, HALVINGS = 0.01, 1e-4, 1e-8, 20


class ALMAProx(Attack, name="alma_prox"):
    """The smallest change of any value that makes a `share` of the pixels wrong (Rony, Pesquet and Ben Ayed, CVPR 2023).

    An augmented Lagrangian with one constraint a pixel (DLR; the margin with two classes) and a proximal step for the
    largest change, which the threat, a `Linf`, caps. A targeted goal asks for the share that shows the wanted map. Without
    randomness. Handed back is the smallest image found; where none reaches the share, or for a judged objective, the best
    one seen, as of any attack. `step` is the first step's size, in [0, 1] units: with few steps raise it, for its sum bounds
    the change.
    """

    fills = False
    answers = ("label", "map")

    def __init__(self, threat: Threat, steps: int = 500, step: float = 1e-3, share: float = 0.99) -> None:
        if steps < 1:
            raise ValueError(f"steps: expected a whole number >= 1, got {steps}")
        if not step > 0:
            raise ValueError(f"step: expected a size > 0 in units of [0, 1] images, got {step}")
        if not 0 < share <= 1:
            raise ValueError(f"share: expected a share of pixels in (0, 1], got {share}")
        if not isinstance(as_threat(threat), Linf):
            raise ValueError(f"threat: expected Linf, whose size this attack makes small, got {threat!r}")
        self.threat, self.steps, self.step, self.share = threat, steps, step, share

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Descend the Lagrangian from the clean image; every iterate is scored."""
        search, walk = Search(model, images, objective), _begin(images, objective, self.steps)
        current = images
        for done in range(self.steps):
            _, gradient = search.gradient(current, self._lagrangian(search.judge, walk, done))
            self._note(walk, search, current, done)
            if done == 0:  # one long step: where the walk gets nowhere, the clean image is not the best there is
                search.look(self.threat.project(images + self.threat.eps * gradient.sign(), images), search.judge)
            self._move(walk, gradient, search.original, done)
            if (kept := search.drop()) is not None:
                walk = walk.at(kept)
            if not len(search):
                return search.result()
            current = self.threat.project(search.original + walk.change, search.original)
        search.look(current, self._lagrangian(search.judge, walk, self.steps))
        self._note(walk, search, current, self.steps)
        found = search.result()
        return found if objective.by_harm else torch.where(per_image(walk.size.isfinite(), found), walk.smallest, found)

    def _note(self, walk: "_Walk", search: Search, current: Tensor, done: int) -> None:
        """Keep the smallest image that reaches the share and does not lower the objective."""
        if done == 0:
            walk.clean = search.judged
        size = self.threat.size(current - search.original)
        reached = walk.wrong >= self.share
        better = reached & (search.judged >= walk.clean) & (size < walk.size)
        walk.smallest = torch.where(per_image(better, current), current, walk.smallest)
        walk.size = torch.where(better, size, walk.size)
        walk.slows = torch.where(reached, walk.slows.clamp(max=done), walk.slows)

    def _lagrangian(self, objective: Objective, walk: "_Walk", done: int) -> Objective:
        """A goal whose gradient is that of the penalties; asked once a step, it moves the multipliers."""
        classes = objective.reading
        towards = objective.wants

        def measure(outputs: Tensor, target: Tensor) -> Tensor:
            logits, labels, valid = classes.read(outputs, target)
            loss = Margin() if logits.shape[1] < 3 else DLR()
            lead = loss.towards(logits, labels, valid) if towards else loss.away(logits, labels, valid)
            hit = (logits.detach().argmax(1) == labels) == towards
            walk.wrong = (hit & valid).sum(1) / valid.sum(1).clamp(min=1)
            return (self._weights(walk, TOLERANCE - lead.detach().to(walk.change), hit, valid, done) * lead).sum(1)

        return changed(objective, measure=measure, context=(), sign=1.0)

    def _weights(self, walk: "_Walk", violated: Tensor, hit: Tensor, valid: Tensor, done: int) -> Tensor:
        """How much each constraint [N, P], `violated` where above 0, pulls; 0 for the hardest, more of them as time goes."""
        factor = torch.where(walk.wrong >= self.share, 1 + SCALE_MOVE, 1 - SCALE_MOVE)
        walk.scale = (walk.scale / factor.to(walk.scale)).clamp(*SCALES)
        value = walk.scale[:, None] * violated
        kept = valid & (value <= _hardest(value, valid, (1 - self.share) * min(1.0, done / max(1, self.steps - 1))))
        walk.hit |= hit
        if done == 0:
            walk.before = value
        elif (done + 1) % EVERY == 0:
            stuck = ~walk.hit & (value * kept > ENOUGH * walk.before)
            walk.penalty = torch.where(stuck, GROWTH * walk.penalty, walk.penalty).clamp(max=LARGEST)
            walk.before, walk.hit = value, torch.zeros_like(walk.hit)
        if done:
            pulled = slope(value, walk.penalty, walk.multiplier) * kept
            walk.multiplier = pulled.lerp(walk.multiplier, AVERAGE).clamp(1e-12, 1)
        return slope(value, walk.penalty, walk.multiplier) * kept * walk.scale[:, None]

    def _move(self, walk: "_Walk", gradient: Tensor, original: Tensor, done: int) -> None:
        """A step along the gradient over its running size, then the proximal one, within threat and [0, 1]."""
        bend = FINAL_RATE / (1 - FINAL_RATE) * (self.steps - walk.slows).clamp(min=1)
        rate = self.step * bend / ((done - walk.slows).clamp(min=0) + bend)
        walk.square = gradient.square().lerp(walk.square, AVERAGE)
        metric = (walk.square / (1 - AVERAGE ** (done + 1))).sqrt().clamp(min=TINY)
        wanted = walk.change + per_image(rate, gradient) * gradient / metric
        room = (-original).clamp(min=-self.threat.eps), (1 - original).clamp(max=self.threat.eps)
        walk.change = proximal(wanted, rate, metric, room)


@dataclass
class _Walk:
    """Per image the change, its running squared gradient, the constraints' scale, the smallest success; per pixel the rest."""

    change: Tensor
    square: Tensor
    scale: Tensor
    slows: Tensor  # the step from which on steps shrink
    wrong: Tensor
    clean: Tensor
    smallest: Tensor
    size: Tensor
    multiplier: Tensor
    penalty: Tensor
    before: Tensor
    hit: Tensor

    def at(self, kept: Tensor) -> "_Walk":
        return _Walk(*(value[kept] for value in vars(self).values()))


def _begin(images: Tensor, objective: Objective, steps: int) -> _Walk:
    one, still = images.new_ones(len(images)), torch.zeros_like(images)
    pixel = images.new_ones(objective.target[:, None].flatten(1).shape)
    never = torch.zeros_like(pixel, dtype=torch.bool)
    state = (pixel, FIRST_PENALTY * pixel, 0 * pixel, never)
    return _Walk(still, still, one, one * (steps // 2), 0 * one, 0 * one, images, one * torch.inf, *state)


def slope(value: Tensor, penalty: Tensor, multiplier: Tensor) -> Tensor:
    """The derivative in y of the penalty m y + m r y^2 + r^2 y^3 / 6 where y >= 0, of m y / (1 - max(r, 1) y) below."""
    above = multiplier + 2 * multiplier * penalty * value + (penalty * value).square() / 2
    below = multiplier / (1 - penalty.clamp(min=1) * value.clamp(max=0)).square()
    return torch.where(value >= 0, above, below)


def proximal(wanted: Tensor, rate: Tensor, metric: Tensor, room: tuple[Tensor, Tensor]) -> Tensor:
    """The change d within `room` with the least rate * max |d| + sum of metric * (d - wanted)^2 / 2, per image.

    Its largest entry is found by halving on the slope, which rises with it: the published ternary search compares values.
    """
    inside = torch.minimum(torch.maximum(wanted, room[0]), room[1])
    reach, asked, weight = inside.flatten(1).abs(), wanted.flatten(1).abs(), metric.flatten(1)
    low, high = torch.zeros_like(rate), reach.amax(1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        pull = (weight * (asked - middle[:, None]) * (reach > middle[:, None])).sum(1)
        low, high = torch.where(pull > rate, middle, low), torch.where(pull > rate, high, middle)
    bound = per_image((low + high) / 2, inside)
    return torch.minimum(torch.maximum(inside, -bound), bound)


def _hardest(value: Tensor, valid: Tensor, share: float) -> Tensor:
    """The value [N, 1] above which the hardest `share` of an image's constraints lies."""
    most = int(share * value.shape[1] + 1e-6)
    allowed = (share * valid.sum(1, keepdim=True) + 1e-6).long().clamp(max=most)
    return value.masked_fill(~valid, -torch.inf).topk(most + 1, dim=1).values.gather(1, allowed)
