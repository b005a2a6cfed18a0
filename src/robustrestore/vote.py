"""Vote: several runs of a random defence as one answer. MeanVote, MajorityVote."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from .arguments import whole
from .component import Component
from .images import straight_through


class Vote(Component, kind="votes"):
    """How the class scores of `runs` runs of a random defence become one. Plug-ins write `run`.

    For class scores [N, C, ...], of labels or of label maps; answers that are images are averaged by
    `purifiers.Ensemble` instead.
    """

    def __init__(self, runs: int = 10) -> None:
        self.runs = whole(runs, "runs")

    @final
    def __call__(self, answers: Sequence[Tensor]) -> Tensor:
        """One answer [N, C, ...] in the dtype of the runs; ValueError unless they are class scores of equal shape."""
        shapes = {tuple(answer.shape) for answer in answers}
        if len(shapes) != 1 or answers[0].dim() < 2 or answers[0].shape[1] < 2:
            raise ValueError(
                f"answers: expected class scores [N, C, ...] of one shape with C >= 2, got {sorted(map(list, shapes))}: "
                "a vote needs classes"
            )
        wide = [answer if answer.dtype.itemsize >= 4 else answer.float() for answer in answers]
        return self.run(torch.stack(wide)).to(answers[0].dtype)

    @abstractmethod
    def run(self, answers: Tensor) -> Tensor:
        """One answer [N, C, ...] for the logits [K, N, C, ...] of K runs."""


class MeanVote(Vote, name="mean"):
    """The mean of the runs' probabilities, as its logarithm, so that it stands for logits. Gradients are exact."""

    def run(self, answers: Tensor) -> Tensor:
        """log mean softmax."""
        return _mean(answers)


class MajorityVote(Vote, name="majority"):
    """The class that most runs name, as Lee and Kim (2023) score a random purifier over ten runs.

    Ties go to the higher mean probability: the answer is the logarithm of the shares when the mean has half a vote more.
    Counting has no derivative: backward it counts as `MeanVote`, so that an adaptive attack is never blinded.
    """

    def run(self, answers: Tensor) -> Tensor:
        """log of the shares going forward, log mean softmax going backward."""
        mean, classes = _mean(answers), answers.shape[2]
        votes = F.one_hot(answers.argmax(2), classes).movedim(-1, 2).to(mean).sum(0)
        shares = (votes + mean.detach().exp() / 2) / (len(answers) + 0.5)
        return straight_through(shares.clamp(min=torch.finfo(mean.dtype).tiny).log(), mean)


def _mean(answers: Tensor) -> Tensor:
    return answers.log_softmax(2).logsumexp(0) - math.log(len(answers))
