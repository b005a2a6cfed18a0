"""Validation: what a pipeline is worth while it is trained, by its task's metrics, without and under an attack."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attack import Attack
from ..images import check_images, trusted
from ..modes import evaluating, seeded
from ..task import Task
from .stream import Data, Stream


class Validation:
    """The metrics of `task` of `model` (a pipeline, say) on `data`, under `attack` where one is given (through all of it).

    The first metric chooses the best weights. `limit`: the first so many images only.
    """

    def __init__(
        self, model: nn.Module, data: Data, task: Task, attack: Attack | None = None, batch: int = 8, limit: int | None = None
    ) -> None:
        for name, value in (("batch", batch), ("limit", 1 if limit is None else limit)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number >= 1, got {value!r}")
        self.model, self.task, self.attack, self.batch = model, task, attack, batch
        self.stream = Stream(data, batch, seed=0)
        self.stream.first().truth()  # says what is missing
        self.count = len(self.stream) if limit is None else min(limit, len(self.stream))

    def statistics(self, device: torch.device, rank: int = 0, world: int = 1) -> list[Tensor]:
        """Per metric the sum of the statistics [K] of every `world`-th batch; they add up over processes.

        A process without a batch of its own takes the first one, which then counts nothing: K is known, and the sums fit.
        """
        totals: list[Any] = [0.0 for _ in self.task.metrics()]
        batches = list(enumerate(range(0, self.count, self.batch)))
        own, counts = batches[rank::world], rank < len(batches)
        with evaluating(self.model):
            for number, start in own or batches[:1]:
                batch = self.stream.take(range(start, min(start + self.batch, self.count))).to(device)
                check_images(batch.images)
                with seeded(number), trusted():
                    images, target = batch.images, batch.truth()
                    if self.attack is not None:
                        images = self.attack(self.model, images, self.task.untargeted(target))
                    with torch.no_grad():
                        outputs = self.model(images)
                    self.task.check(outputs, target)
                if device.type == "mps":  # which has no float64: counted, and handed back, on the CPU
                    outputs, target = outputs.cpu(), target.cpu()
                for k, metric in enumerate(self.task.metrics()):
                    totals[k] = totals[k] + counts * metric.measure(outputs, target).double().sum(0)
        where = "cpu" if device.type == "mps" else device
        return [torch.as_tensor(total, dtype=torch.float64, device=where) for total in totals]

    def values(self, totals: Sequence[Tensor]) -> dict[str, float]:
        """The metrics by name from the sums of all processes."""
        suffix = "" if self.attack is None else " (attacked)"
        pairs = zip(self.task.metrics(), totals, strict=True)
        return {
            f"{metric.name}{suffix}": float(metric.summarise(total.cpu().numpy().astype(np.float64))) for metric, total in pairs
        }

    def __call__(self, device: torch.device | str = "cpu") -> dict[str, float]:
        """The metrics, in this process alone."""
        return self.values(self.statistics(torch.device(device)))
