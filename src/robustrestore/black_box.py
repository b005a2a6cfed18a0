"""BlackBox: attacks that see a model's outputs only and pay for each look; Oracle: where they pay."""

from abc import abstractmethod
from typing import final

import torch
from torch import Tensor

from .attack import Attack, Model
from .loss import Loss
from .modes import generator
from .search import Search
from .task import Objective
from .threat import Threat, as_threat


class Oracle:
    """All that a black-box attack gets to see: gains, for one query an image, and at most `queries` for each.

    A question goes to all images that are still attacked, each with its own candidate; images at different points of an
    attack are asked together. Answers carry no graph, and come in full precision under autocast too. `spent` [N] counts the
    queries of every image on the CPU, also of those that were dropped.
    """

    def __init__(self, model: Model, images: Tensor, objective: Objective, queries: int, loss: Loss | None = None) -> None:
        self._model, self._queries = model, queries
        self.spent, self._place = torch.zeros(len(images), dtype=torch.long), torch.arange(len(images))
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            self._search = Search(self._paid, images, objective, loss)

    def __len__(self) -> int:
        """How many images are still attacked."""
        return len(self._place)

    @property
    def left(self) -> int:
        """How many queries each image still attacked has left; 0 where no image is left."""
        return self._queries - int(self.spent[self._place[0]]) if len(self) else 0

    @property
    def original(self) -> Tensor:
        """The clean images still attacked [n, C, H, W]."""
        return self._search.original

    @property
    def objective(self) -> Objective:
        """The objective of the images still attacked."""
        return self._search.judge

    def ask(self, images: Tensor) -> Tensor:
        """The gain [n] of allowed images; the best one of each is kept. ValueError where no query is left."""
        return self._search.look(images)

    def gauge(self, images: Tensor) -> Tensor:
        """The gain [n] of images that need not be allowed, as probes of a gradient; for a query each, and never kept."""
        return self._search.goal.gain(self._paid(images))

    def drop(self) -> Tensor | None:
        """Leave out what has nothing left to lose, where the objective is judged: the index to go on with, None for all."""
        kept = self._search.drop(least=0)
        if kept is not None:
            self._place = self._place[kept.cpu()]
        return kept

    def result(self) -> Tensor:
        """Per image the best one that `ask` showed, the original if none was. ValueError where the model gave NaN."""
        return self._search.result()

    def _paid(self, images: Tensor) -> Tensor:
        if self.left < 1:
            raise ValueError(f"queries: expected at most {self._queries} an image, got one more: ask while oracle.left")
        self.spent[self._place] += 1
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return self._model(images)


class BlackBox(Attack):
    """An attack that sees outputs only: no gradient is ever taken. Plug-ins write `hunt`; `run` is final.

    `queries`: how often each image may be shown to the model, the clean one included; never exceeded. Where the objective is
    judged, nothing more is spent on an image that has nothing left to lose; otherwise the attack goes on to its budget.
    `loss`: what is climbed; None, the objective's own gain.
    """

    blind = True
    queries: int
    loss: Loss | None

    def __init__(self, threat: Threat, queries: int, loss: Loss | None = None) -> None:
        if queries < 1:
            raise ValueError(f"queries: expected a whole number >= 1, got {queries}")
        if loss is not None and not loss.comparable:
            raise ValueError(
                f"loss: expected one whose values at two images compare, got {loss!r}: its mask moves with the image"
            )
        self.threat, self.queries, self.loss = as_threat(threat), queries, loss

    @final
    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Show the clean images, hunt while a query is left, give the best images shown."""
        oracle = Oracle(model, images, objective, self.queries, self.loss)
        if oracle.left:
            gain = oracle.ask(oracle.original)
            kept = oracle.drop()
            gain = gain if kept is None else gain[kept]
            if oracle.left:
                self.hunt(oracle, gain)
        return oracle.result()

    @abstractmethod
    def hunt(self, oracle: Oracle, gain: Tensor) -> None:
        """Ask `oracle` of allowed images while `oracle.left`; `gain` [n] is that of the clean images.

        After `oracle.drop()` gave an index, everything that is kept per image is to be indexed with it.
        """


class Draws:
    """The random numbers of one attack: with a seed the same for every image whatever its batch, otherwise fresh for each."""

    def __init__(self, seed: int | None) -> None:
        self._own, self._fresh = generator(seed), seed is None

    def uniform(self, images: Tensor, *shape: int) -> Tensor:
        """Uniform in [0, 1), [n, *shape], one row for each of `images`."""
        return self._rows(torch.rand(self._count(images), *shape, generator=self._own), images)

    def normal(self, images: Tensor, *shape: int) -> Tensor:
        """Standard normal, [n, *shape]."""
        return self._rows(torch.randn(self._count(images), *shape, generator=self._own), images)

    def signs(self, images: Tensor, *shape: int) -> Tensor:
        """-1 or 1, [n, *shape]."""
        return 1 - 2 * (self.uniform(images, *shape) < 0.5).to(images)

    def below(self, high: int, images: Tensor, *shape: int) -> Tensor:
        """Whole numbers 0..high-1, [n, *shape]."""
        return (self.uniform(images, *shape) * high).long().clamp(max=high - 1)

    def _count(self, images: Tensor) -> int:
        return len(images) if self._fresh else 1

    def _rows(self, drawn: Tensor, images: Tensor) -> Tensor:
        return drawn.to(images).expand(len(images), *drawn.shape[1:])
