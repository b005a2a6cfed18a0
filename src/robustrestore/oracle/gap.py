"""Gap: how far a surrogate's outputs are from a target's answers, as a loss."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, final

from torch import Tensor

from ..component import Component
from ..task import Task

if TYPE_CHECKING:
    from .tier import Tier


class Gap(Component, kind="gaps"):
    """A distillation loss. Plug-ins write `run`."""

    @final
    def __call__(self, found: Tensor, answers: Tensor, tier: Tier, task: Task) -> Tensor:
        """The loss [N] of a surrogate's outputs, with gradients in them; ValueError where shapes do not fit."""
        wanted = tier.truth(answers)
        if len(found) != len(wanted) or not found.is_floating_point():
            raise ValueError(f"surrogate: expected {len(wanted)} outputs, got {found.dtype} {list(found.shape)}")
        return self.run(found.float() if found.dtype.itemsize < 4 else found, answers, tier, task)

    @abstractmethod
    def run(self, found: Tensor, answers: Tensor, tier: Tier, task: Task) -> Tensor:
        """The loss [N]."""


def _scores(found: Tensor, answers: Tensor, tier: Tier) -> tuple[Tensor, Tensor]:
    wanted = tier.scores(answers).to(found)
    if wanted.shape != found.shape:
        raise ValueError(f"surrogate: expected outputs like the answers {list(wanted.shape)}, got {list(found.shape)}")
    return found, wanted


def _summed(values: Tensor) -> Tensor:
    """[N]: the sum over classes, the mean over pixels where there are any."""
    return values.sum(1).flatten(1).mean(1) if values.dim() > 2 else values.sum(1)


class L1Gap(Gap, name="l1"):
    """sum_c |t_c - a_c| between the target's and the surrogate's logits, as DUCD (Li et al., 2024) is said to do.

    We know that loss from a summary alone. Of label maps and images it is the mean over pixels of the sum over channels, which
    is our extension.
    """

    def run(self, found: Tensor, answers: Tensor, tier: Tier, task: Task) -> Tensor:
        """Nothing else."""
        found, wanted = _scores(found, answers, tier)
        return _summed((found - wanted).abs())


class CentredL1Gap(Gap, name="centred_l1"):
    """The same after taking each image's mean over classes from both sides: probabilities fix logits up to a shift. Ours."""

    def run(self, found: Tensor, answers: Tensor, tier: Tier, task: Task) -> Tensor:
        """Of log p where the answers are probabilities."""
        found, wanted = _scores(found, answers, tier)
        return _summed((found - found.mean(1, keepdim=True) - wanted + wanted.mean(1, keepdim=True)).abs())


class KLGap(Gap, name="kl"):
    """KL(target || surrogate) at `temperature`, times its square (Hinton, Vinyals and Dean, 2015), in nats."""

    def __init__(self, temperature: float = 1.0) -> None:
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature: expected a finite number above 0, got {temperature}")
        self.temperature = float(temperature)

    def run(self, found: Tensor, answers: Tensor, tier: Tier, task: Task) -> Tensor:
        """Of softmax over axis 1."""
        found, wanted = _scores(found, answers, tier)
        said, told = (found / self.temperature).log_softmax(1), (wanted / self.temperature).log_softmax(1)
        return _summed(told.exp() * (told - said)) * self.temperature**2


class LabelGap(Gap, name="label"):
    """The task's own loss with the target's answer for the truth: cross-entropy of labels, squared error of images."""

    def run(self, found: Tensor, answers: Tensor, tier: Tier, task: Task) -> Tensor:
        """What the task says."""
        return task.loss(found, tier.truth(answers).to(found.device))
