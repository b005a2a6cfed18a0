"""Jitter (Schwinn et al., 2021): a loss of scaled, noisy probabilities that rewards small changes once they fool."""

from dataclasses import replace as changed

import torch
from torch import Tensor
from torch.nn import functional as F

from ..attack import Attack, Model
from ..loss import Loss
from ..modes import generator
from ..task import Objective
from ..threat import Threat, as_threat
from .pgd import PGD


class Jitter(Attack, name="jitter"):
    """PGD on ||h - one-hot label||^2 / classes, h = softmax(scale z / ||z||_inf) + noise N(0, 1) (Schwinn et al., 2021).

    Scaled logits hide no gradient, noise varies the direction; once wrong, the loss is divided by the change's largest
    entry, so that less of it is better. In a map each pixel counts by itself, divided by the change at that pixel, as in
    UAE-RS (Xu and Ghamisi, 2022). A targeted goal lowers the distance to the wanted label and divides by nothing. `step`: by
    default a quarter of the threat's size, our choice. With a `seed` no image depends on its batch; None draws afresh.
    """

    answers = ("label", "map")

    def __init__(
        self,
        threat: Threat,
        steps: int = 10,
        step: float | None = None,
        scale: float = 10.0,
        noise: float = 0.1,
        samples: int = 1,
        seed: int | None = 0,
    ) -> None:
        for what, value, least in (("scale", scale, "> 0"), ("noise", noise, ">= 0")):
            if not (0 <= value < float("inf")) or (least == "> 0" and value == 0):
                raise ValueError(f"{what}: expected a finite number {least}, got {value}")
        PGD(threat, steps, step, samples=samples)  # checks them
        self.threat, self.steps, self.step, self.scale = as_threat(threat), steps, step, scale
        self.noise, self.samples, self.seed = noise, samples, seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """PGD from a uniform start; the loss is told which images the model saw last."""
        seen = [images]

        def watched(shown: Tensor) -> Tensor:
            seen[0] = shown
            return model(shown)

        loss = _Jittered(self, seen)
        pgd = PGD(self.threat, self.steps, self.step, samples=self.samples, seed=self.seed, loss=loss)
        return pgd.run(watched, images, objective)


class _Jittered(Loss):
    """The loss of one run of Jitter; `seen` holds the images that the model was handed last."""

    comparable = False

    def __init__(self, attack: Jitter, seen: list[Tensor]) -> None:
        self.attack, self.seen, self.own = attack, seen, generator(attack.seed)

    def run(self, model: Model, images: Tensor, objective: Objective) -> Objective:
        classes = objective.reading

        def measure(outputs: Tensor, target: Tensor, original: Tensor) -> Tensor:
            logits, labels, valid = classes.read(outputs, target)
            truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1)
            values = (self._shares(logits) - truth).square().mean(1)
            if objective.towards:
                values = -values
            else:
                size = _size(self.seen[0] - original, target).to(values)
                small = (logits.argmax(1) != labels) & (size > 0)
                values = values / torch.where(small, size, 1.0)
            return (values * valid).sum(1) / valid.sum(1).clamp(min=1)

        return changed(objective, measure=measure, context=(images,))

    def _shares(self, logits: Tensor) -> Tensor:
        """Noisy shares of the classes [N, C, P]."""
        finite = logits.isfinite()  # a class may be masked out with -inf
        known = logits.where(finite, 0.0)
        largest = known.abs().amax(1, keepdim=True)
        scaled = self.attack.scale * known / torch.where(largest > 0, largest, 1.0)
        shares = scaled.masked_fill(~finite, -torch.inf).softmax(1)
        one = logits if self.attack.seed is None else logits[:1]
        return shares + self.attack.noise * torch.randn(one.shape, generator=self.own, dtype=torch.float32).to(shares)


def _size(change: Tensor, target: Tensor) -> Tensor:
    """The largest absolute entry of each change, facing the labels: one an image [N, 1] or one a pixel [N, P]."""
    size = change.abs().amax(1, keepdim=True)
    return F.adaptive_max_pool2d(size, target.shape[1:] if target.dim() == 3 else (1, 1)).flatten(1)
