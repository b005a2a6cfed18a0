"""Queried: a target that is asked and paid for by the image: no weights, no gradients, each answer paid once."""

import hashlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..files import digest
from ..identity import of_callable, of_settings
from ..images import check_shape
from ..modes import evaluating
from .ledger import Change, Ledger
from .tier import TOLERANCE, Logits, Tier

Sending = Callable[[int], None]
"""Called with the number of images before each attempt to have them answered; raises where that is not allowed."""


@runtime_checkable
class Source(Protocol):
    """Who answers. `batch`: images at once; `about`: what tells it from other targets, without secrets.

    It may have `tells`, the class of the one tier that its answers are, and `asked`, a `Queried` whose answers it hands on.
    """

    batch: int
    about: str

    def ask(self, images: Tensor, sending: Sending) -> Any:
        """The raw answers to float32 images on the CPU; calls `sending` before each attempt."""


class _Local:
    """A callable of this process as a source. It is no sub-module of anything, and answers without a graph."""

    def __init__(self, target: Callable[[Tensor], Any], batch: int) -> None:
        module = isinstance(target, nn.Module)
        text = f"{of_callable(type(target))} {of_settings(target)}" if module else of_callable(target)
        self._target, self.batch = target, batch
        self.about = hashlib.sha256(text.encode()).hexdigest()[:16]  # the text itself may hold a token of the caller's

    def ask(self, images: Tensor, sending: Sending) -> Any:
        sending(len(images))
        owner = getattr(self._target, "__self__", self._target)
        weight = next(iter(owner.parameters()), None) if isinstance(owner, nn.Module) else None
        with torch.no_grad(), evaluating(self._target):
            return self._target(images if weight is None else images.to(weight.device))


class Queried(nn.Module):
    """`target` as a black box: images [N, C, H, W] in, answers out; `query` is the one way in, and calling does the same.

    `target`: a function of images, a torch model, an `Endpoint`, or any `Source`. Of a torch model nothing is registered here:
    no parameter, no sub-module, and no gradient comes back. `tier`: what the answers are; logits by default. `cache`: a file
    that keeps every answer (SQLite), None for memory alone. The key is a digest of the image in float32, so an image is paid
    for once, also in later runs and epochs; a crop or a flip is another image. `budget`: at most so many images are ever sent,
    counted in the file *before* they leave, attempts that failed included, for a service may charge for those too; `OverBudget`
    before it is passed. `batch`: images at once of a local target. `name`: what the target is called in the file, which serves
    no other one; by default its URL, or a digest of its code, settings and weights.
    """

    def __init__(
        self,
        target: Callable[[Tensor], Any] | Source,
        tier: Tier | None = None,
        cache: str | Path | None = None,
        budget: int | None = None,
        batch: int = 64,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if not (callable(target) or isinstance(target, Source)):
            raise TypeError(f"target: expected a function of images or an oracle.Endpoint, got {type(target).__name__}")
        if not isinstance(tier, Tier | None):
            raise TypeError(f"tier: expected one such as oracle.Probabilities(), got {tier!r}")
        for what, value in (("budget", 1 if budget is None else budget), ("batch", batch)):
            if isinstance(value, bool) or value < 1:
                raise ValueError(f"{what}: expected a whole number >= 1, got {value!r}")
        self._source: Source = target if isinstance(target, Source) else _Local(target, batch)
        self.tier: Tier = Logits() if tier is None else tier
        tells: Any = getattr(self._source, "tells", Tier)
        if not isinstance(self.tier, tells):
            raise TypeError(
                f"tier: expected oracle.{tells.__name__}(), for that is what {type(target).__name__} tells, got {self.tier!r}: "
                "hand it over beside the target"
            )
        self._budget, self._name = budget, self._source.about if name is None else name
        self._ledger = Ledger(None if cache is None else Path(cache), {"target": self._name, "tier": repr(self.tier)})

    def __repr__(self) -> str:
        return f"Queried({self._name!r}, {self.tier!r})"  # no counts: results are bound to it

    def told_apart_by(self) -> str:
        """What tells it from others: the target and the tier, whatever was asked and whatever else it holds."""
        return f"{self._source.about} {self.tier!r}"

    @property
    def left(self) -> int | None:
        """How many images may still be sent; None without a budget."""
        return None if self._budget is None else max(0, self._budget - self.sent)

    @property
    def sent(self) -> int:
        """Images sent to the target in all runs with this cache, failed attempts included."""
        return self._ledger.sent

    @property
    def answered(self) -> int:
        """Different images whose answer is kept."""
        return len(self._ledger)

    @property
    def changes(self) -> list[Change]:
        """What `recheck` and repeated questions found changed, over all runs."""
        return self._ledger.changes()

    def forward(self, images: Tensor) -> Tensor:
        """As `query`."""
        return self.query(images)

    def query(self, images: Tensor) -> Tensor:
        """The answers [N, ...], on the images' device, without a graph; only images that are new are sent.

        Each portion is kept as soon as it is answered: after an error or a kill the same call goes on behind it. An image that
        occurs twice among them is sent once. Raises OverBudget, and what the target raises.
        """
        plain, keys = self._plain(images)
        known = self._ledger.find(keys)
        places = {key: place for place, key in reversed(list(enumerate(keys))) if key not in known}
        for part, found in self._asked(plain, list(reversed(places.values()))):
            fresh = {keys[place]: answer for place, answer in zip(part, found, strict=True)}
            self._ledger.keep(fresh)
            known.update(fresh)
        return torch.stack([known[key] for key in keys]).to(images.device) if keys else torch.empty(0, device=images.device)

    def recheck(self, images: Tensor) -> list[Change]:
        """Ask again, and pay again, for images that are answered; what changed is kept in the file, warned of and handed back.

        The first answers stay. A target that was replaced, or one that draws at random, shows here. Of `Votes` it does not,
        for they come out of the answers of another `Queried`: TypeError.
        """
        if isinstance(getattr(self._source, "asked", None), Queried):
            raise TypeError(
                f"recheck: expected a target that answers anew, got {type(self._source).__name__}, made of the kept answers of "
                "another Queried: recheck that one, asked.recheck(votes.copies(images))"
            )
        plain, keys = self._plain(images)
        known = self._ledger.find(keys)
        changes = []
        for part, found in self._asked(plain, [place for place, key in enumerate(keys) if key in known]):
            for place, answer in zip(part, found, strict=True):
                before = known[keys[place]]
                apart = float(self.tier.apart(before, answer)) if before.shape == answer.shape else float("inf")
                if not apart <= TOLERANCE:
                    changes.append(Change(keys[place], apart))
        if changes:
            self._ledger.note(changes)
            worst = max(one.distance for one in changes)
            warnings.warn(
                f"target: {len(changes)} answers of {len(images)} changed, by up to {worst:.4g}: it was replaced, or it is "
                "random; take another cache for the new one",
                stacklevel=2,
            )
        return changes

    def _plain(self, images: Tensor) -> tuple[Tensor, list[str]]:
        check_shape(images)
        plain = images.detach().to("cpu", torch.float32).contiguous()
        return plain, [digest(image) for image in plain]

    def _asked(self, images: Tensor, places: list[int]) -> Iterator[tuple[list[int], Tensor]]:
        """The answers to some of the images, portion by portion; each goes to the budget first."""
        for start in range(0, len(places), self._source.batch):
            part = places[start : start + self._source.batch]
            raw = self._source.ask(images[part], lambda count: self._ledger.send(count, self._budget))
            yield part, self.tier.read(raw, len(part))
