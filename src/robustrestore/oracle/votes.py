"""Votes: scores out of labels alone, by asking for several noisy copies of each image."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..certify import Noise
from ..certify.bounds import check_counts
from ..files import digest
from ..modes import generator
from ..runs import spawn
from .queried import Queried, Sending
from .tier import Labels, Probabilities


class Votes:
    """The share of `draws` noisy copies of an image to which `asked` gives each of `classes` labels: a source for `Queried`.

    `Queried(Votes(asked, 10, noise), Probabilities())` tells more than a label does: how near an image is to a boundary. Shares
    are (count + 1) / (draws + classes), of copies clamped to [0, 1], the same ones at every asking: all of that is our choice.
    An image costs `draws` queries. `asked`, of the tier `Labels`, pays, counts and keeps them: its `sent` is the bill, its
    budget the limit, and a killed run loses none. Whether they still hold, `asked.recheck(votes.copies(images))` tells.
    """

    tells = Probabilities

    def __init__(self, asked: Queried, classes: int, noise: Noise, draws: int = 10, seed: int = 0) -> None:
        if not isinstance(asked, Queried) or not isinstance(asked.tier, Labels):
            raise TypeError(f"asked: expected rr.oracle.Queried(target, rr.oracle.Labels()), got {asked!r}")
        if not isinstance(noise, Noise):
            raise TypeError(f"noise: expected one such as rr.certify.Gaussian(0.25), got {type(noise).__name__}")
        check_counts(2, classes=classes)
        check_counts(draws=draws)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"seed: expected a whole number, so that the copies are the same at every asking, got {seed!r}")
        self.asked, self._classes, self._noise, self._draws, self._seed = asked, int(classes), noise, int(draws), seed
        self.batch = 16

    @property
    def about(self) -> str:
        """The target, and what the votes are."""
        return f"{self._draws} votes on {self._classes}, {self._noise!r}, seed {self._seed}: {self.asked.told_apart_by()}"

    def copies(self, images: Tensor) -> Tensor:
        """The noisy copies that `asked` is asked for, the `draws` of each image behind one another, on the CPU."""
        return torch.cat([self._copies(image[None]) for image in images.detach().to("cpu", torch.float32)])

    def ask(self, images: Tensor, sending: Sending) -> Any:
        """Shares [n, K], or [n, K, H, W] of label maps."""
        copies = self.copies(images)
        sending(len(images))
        labels = self.asked(copies)
        if int(labels.max()) >= self._classes:
            raise ValueError(
                f"classes: expected labels below {self._classes}, got {int(labels.max())}: hand over how many there are"
            )
        hits = F.one_hot(labels, self._classes)
        counts = hits.view(len(images), self._draws, *hits.shape[1:]).sum(1).movedim(-1, 1)
        return (counts.float() + 1) / (self._draws + self._classes)

    def _copies(self, image: Tensor) -> Tensor:
        own = generator(spawn(self._seed, f"votes {digest(image[0])}"), image.device)
        many = image.expand(self._draws, *image.shape[1:])
        return self._noise.applied(many, self._noise.sample_like(many, own)).clamp(0, 1)
