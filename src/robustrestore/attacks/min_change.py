"""The smallest change that spoils a restored image: Carlini and Wagner (2017), carried over to images as outputs."""

from dataclasses import replace as changed

import torch
from torch import Tensor

from ..attack import Attack, Model
from ..images import clamp, per_image
from ..modes import generator
from ..search import Search
from ..task import Objective
from ..threat import Threat, as_threat

GREY_LEVEL = 1 / 255
ADAM_FLOOR = 1e-8


class CWRestoration(Attack, name="cw_restoration"):
    """C&W (Carlini and Wagner, 2017) for restorers: the smallest ||d||_2 that brings the output below `psnr` dB.

    Lowered by Adam, cut to the box after each step: mean(d^2) + c max(tau - MSE, 0), where tau is the squared error of `psnr`
    dB to the objective's target. c starts at 1 and is searched per image in `searches` runs of `steps` gradients: halved
    between bounds after a success, ten times as large while there was none. A targeted goal is met from `psnr` dB on. Where
    nothing meets the goal the best image found is returned. `threat` caps the change: `L2(100)` hardly does. Our choices: a
    level in dB for C&W's success, means for sums, no tanh (it would hold black and white pixels where they are), and a start
    one grey level off, as there is no gradient at the model's own clean output. A report needs ||d||_2 and `psnr` together.
    """

    fills = False
    answers = ("image",)

    def __init__(
        self,
        threat: Threat,
        psnr: float = 25.0,
        searches: int = 9,
        steps: int = 50,
        rate: float = 0.01,
        samples: int = 1,
        seed: int | None = 0,
    ) -> None:
        for what, value in (("searches", searches), ("steps", steps), ("samples", samples)):
            if value < 1:
                raise ValueError(f"{what}: expected a whole number >= 1, got {value}")
        if not rate > 0:
            raise ValueError(f"rate: expected a learning rate > 0, got {rate}")
        self.threat, self.psnr, self.searches, self.steps = as_threat(threat), float(psnr), searches, steps
        self.rate, self.samples, self.seed = rate, samples, seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Search for c; the smallest change that met the goal."""
        search = Search(model, images, objective, samples=self.samples)
        search.goal = changed(objective, measure=lambda outputs, *rest: objective.measure(clamp(outputs), *rest))  # as shown
        goal = 10 ** (-self.psnr / 10) * (-1 if objective.wants else 1)
        found = _Found(images, search.look(images) >= goal)
        noise = _start(images, self.seed)
        weight = torch.ones_like(found.size)
        low, high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
        for _ in range(self.searches):
            success = self._descend(search, found, noise, weight, goal)
            low, high = torch.where(success, low, weight), torch.where(success, weight, high)
            weight = torch.where(high.isinf(), 10 * low, (low + high) / 2)
        return torch.where(per_image(found.size.isfinite(), images), found.images, search.result())

    def _descend(self, search: Search, found: "_Found", noise: Tensor, weight: Tensor, goal: float) -> Tensor:
        """One run with `weight` as c; which images met the goal [N]."""
        original = search.original
        current, adam = self.threat.project(original + noise, original), _Adam(original, self.rate)
        success = torch.zeros_like(weight, dtype=torch.bool)

        def worth(gain: Tensor, images: Tensor) -> Tensor:
            return -(images - original).square().flatten(1).mean(1) - weight * (goal - gain).clamp(min=0)

        for _ in range(self.steps):
            gain, gradient = search.gradient(current, adjust=worth)
            success = success | found.note(current, original, gain >= goal)
            current = self.threat.project(current + adam.step(gradient), original)
        return success | found.note(current, original, search.look(current) >= goal)


class _Found:
    """Per image the smallest change that met the goal, and its length; infinite where none did."""

    def __init__(self, images: Tensor, met: Tensor) -> None:
        self.images = images.clone()
        self.size = torch.where(met, 0.0, torch.inf).to(images)

    def note(self, images: Tensor, original: Tensor, met: Tensor) -> Tensor:
        """Keep what is smaller; `met` again."""
        size = torch.linalg.vector_norm((images - original).flatten(1), dim=1)
        better = met & (size < self.size)
        self.images = torch.where(per_image(better, images), images, self.images)
        self.size = torch.where(better, size, self.size)
        return met


class _Adam:
    """Adam (Kingma and Ba, 2015), per entry and so per image, uphill."""

    def __init__(self, like: Tensor, rate: float) -> None:
        self.mean, self.square, self.rate, self.count = torch.zeros_like(like), torch.zeros_like(like), rate, 0

    def step(self, gradient: Tensor) -> Tensor:
        """The change that follows this gradient."""
        self.count += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient.square()
        spread = (self.square / (1 - 0.999**self.count)).sqrt() + ADAM_FLOOR
        return self.rate * self.mean / (1 - 0.9**self.count) / spread


def _start(images: Tensor, seed: int | None) -> Tensor:
    """Noise within a grey level; with a seed the same for every image."""
    one = images if seed is None else images[:1]
    return ((2 * torch.rand(one.shape, generator=generator(seed)) - 1) * GREY_LEVEL).to(images)
