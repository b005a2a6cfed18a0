"""Margin (Carlini and Wagner, 2017): how far the best wrong class stands above the true one."""

import math

import torch
from torch import Tensor

from ..loss import ClassLoss


class Margin(ClassLoss, name="margin"):
    """The best wrong class's score minus the true one's, in logits (Carlini and Wagner, 2017): positive once wrong.

    For a targeted goal the wanted class's score minus the best other one's. With a `confidence` (kappa of the paper) a
    margin above it counts as that much: a position that is wrong by enough lets the others have the change.
    """

    def __init__(self, confidence: float | None = None) -> None:
        if confidence is not None and not (math.isfinite(confidence) and confidence >= 0):
            raise ValueError(f"confidence: expected a margin >= 0 in logits or None, got {confidence}")
        self.confidence = confidence

    def away(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """How far another class leads [N, P]."""
        return self._cut(-lead(logits, labels))

    def towards(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """How far the wanted class leads [N, P]."""
        return self._cut(lead(logits, labels))

    def _cut(self, margin: Tensor) -> Tensor:
        return margin if self.confidence is None else margin.clamp(max=self.confidence)


def lead(logits: Tensor, labels: Tensor) -> Tensor:
    """The score of each position's label minus the best other one's [N, P], from logits [N, C, P] and labels [N, P].

    The label is left out of the maximum, not multiplied by 0, which would win wherever all scores are negative.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"outputs: expected scores of at least 2 classes, got {logits.shape[1]}: a margin compares two")
    place = labels[:, None]
    others = logits.scatter(1, place, -torch.inf).amax(1)
    return logits.gather(1, place)[:, 0] - others
