"""Tier: what a model that is seen by queries tells of an image: logits, probabilities, labels, or an image."""

from abc import abstractmethod
from typing import Any, final

import torch
from torch import Tensor

from ..component import Component
from .gap import CentredL1Gap, Gap, L1Gap, LabelGap

TOLERANCE = 1e-4  # our choice: answers that differ by more are other answers


class Tier(Component, kind="tiers"):
    """What answers are. Plug-ins write `run`, `scores`, `truth`, `apart` and `gap`.

    Answers are stored as they come, float32 or int64, with classes on axis 1: [N, K] of a classifier, [N, K, H, W] of a
    segmenter.
    """

    @final
    def read(self, outputs: Any, count: int) -> Tensor:
        """What a target gave for `count` images, checked, on the CPU; ValueError or TypeError for what is no such answer."""
        try:
            found = outputs.detach().cpu() if isinstance(outputs, Tensor) else torch.as_tensor(outputs)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"answers: expected numbers, got {type(outputs).__name__}: {error}") from error
        if found.dim() == 0 or len(found) != count:
            raise ValueError(f"answers: expected one for each of {count} images, got shape {list(found.shape)}")
        if found.is_floating_point() and not bool(found.isfinite().all()):
            raise ValueError("answers: expected finite values, got NaN or infinity")
        return self.run(found).contiguous()

    @abstractmethod
    def run(self, answers: Tensor) -> Tensor:
        """The answers as they are stored; ValueError for a wrong shape or range."""

    @abstractmethod
    def scores(self, answers: Tensor) -> Tensor:
        """What a surrogate's outputs are compared with: logits, up to a shift where the answers fix no more, or images."""

    @abstractmethod
    def truth(self, answers: Tensor) -> Tensor:
        """The answers as a task's target: labels, label maps or images."""

    @abstractmethod
    def gap(self) -> Gap:
        """The loss that fits these answers."""

    def apart(self, first: Tensor, second: Tensor) -> Tensor:
        """How far two answers to one image lie apart, []; beyond `TOLERANCE` they count as different."""
        return (first.double() - second.double()).abs().max()


def _classes(answers: Tensor, what: str) -> Tensor:
    if not answers.is_floating_point() or answers.dim() not in (2, 4) or answers.shape[1] < 2:
        raise ValueError(
            f"answers: expected {what} [N, K] or [N, K, H, W] with two classes or more, got {answers.dtype} "
            f"{list(answers.shape)}: choose another tier, such as oracle.Labels()"
        )
    return answers.float()


class Logits(Tier, name="logits"):
    """Class scores before softmax. Nothing tells them from logarithms of probabilities: those are logits too."""

    def run(self, answers: Tensor) -> Tensor:
        """Any finite values."""
        return _classes(answers, "logits")

    def scores(self, answers: Tensor) -> Tensor:
        """The logits."""
        return answers

    def truth(self, answers: Tensor) -> Tensor:
        """The largest one."""
        return answers.argmax(1)

    def gap(self) -> Gap:
        """L1, as DUCD is said to do."""
        return L1Gap()


class Probabilities(Tier, name="probabilities"):
    """Probabilities that sum to 1. `floor`: what smaller ones count as, for their logarithm (our choice)."""

    def __init__(self, floor: float = 1e-6) -> None:
        if not 0 < floor < 1:
            raise ValueError(f"floor: expected a probability in (0, 1), got {floor}")
        self.floor = float(floor)

    def run(self, answers: Tensor) -> Tensor:
        """In [0, 1], of sum 1 within 1 %: services round."""
        found = _classes(answers, "probabilities")
        low, apart = float(found.min()), float((found.sum(1) - 1).abs().max())
        if low < 0 or apart > 0.01:
            raise ValueError(
                f"answers: expected probabilities of sum 1, got values from {low:.4g} and sums off by {apart:.4g}: are they "
                "logits? Then the tier is oracle.Logits()"
            )
        return found

    def scores(self, answers: Tensor) -> Tensor:
        """log p, which is the logits up to a shift."""
        return answers.clamp(min=self.floor).log()

    def truth(self, answers: Tensor) -> Tensor:
        """The likeliest one."""
        return answers.argmax(1)

    def gap(self) -> Gap:
        """L1 with both sides centred."""
        return CentredL1Gap()


class Labels(Tier, name="labels"):
    """One label an image [N], or a map of them [N, H, W]: the least that a target can tell."""

    def run(self, answers: Tensor) -> Tensor:
        """Whole numbers >= 0."""
        whole = not answers.is_floating_point() and answers.dtype != torch.bool
        if not whole or answers.dim() not in (1, 3) or (answers.numel() and int(answers.min()) < 0):
            raise ValueError(
                f"answers: expected whole labels [N] or [N, H, W], got {answers.dtype} {list(answers.shape)}: take the largest "
                "score first, or choose oracle.Logits()"
            )
        return answers.long()

    def scores(self, answers: Tensor) -> Tensor:
        """There are none: TypeError."""
        raise TypeError("answers: expected scores, got labels, which tell none: use oracle.LabelGap()")

    def truth(self, answers: Tensor) -> Tensor:
        """The labels."""
        return answers

    def gap(self) -> Gap:
        """The task's own loss."""
        return LabelGap()


class Images(Tier, name="images"):
    """The image [N, C, H, W] that a restorer makes: our extension, the recipe that we know of is for classifiers."""

    def run(self, answers: Tensor) -> Tensor:
        """Finite values."""
        if not answers.is_floating_point() or answers.dim() != 4:
            raise ValueError(f"answers: expected images [N, C, H, W], got {answers.dtype} {list(answers.shape)}")
        return answers.float()

    def scores(self, answers: Tensor) -> Tensor:
        """The image."""
        return answers

    def truth(self, answers: Tensor) -> Tensor:
        """The image, in [0, 1]."""
        return answers.clamp(0, 1)

    def gap(self) -> Gap:
        """L1 for each pixel."""
        return L1Gap()
