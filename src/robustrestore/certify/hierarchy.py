"""Hierarchy: coarser classes for pixels that no fine class can be promised for (AdaptiveCertify, Anani et al., 2024)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Hierarchy:
    """Groupings of the classes, from fine to coarse, and the mean margins below which a pixel takes the next one.

    `levels`: each a partition of the class numbers 0..C-1 into groups, say [[0, 1], [2], [3, 4]]. `margins`: one threshold a
    level, falling; a pixel whose mean top-1 less top-2 probability over the selection draws is below the first k of them is
    certified at level k. A *vertex* is a class or a group: classes keep their numbers, groups follow. The promise
    is of the level chosen here: another image may choose another.
    """

    def __init__(self, levels: Sequence[Sequence[Sequence[int]]], margins: Sequence[float]) -> None:
        if not levels or len(levels) != len(margins) or not _falling(margins):
            raise ValueError(
                f"levels, margins: expected one falling margin for each level, got {len(levels)} and {list(margins)}"
            )
        self.levels = [[[int(c) for c in group] for group in level] for level in levels]
        self.margins = [float(m) for m in margins]
        self.classes = sum(len(group) for group in self.levels[0])
        for level in self.levels:
            if sorted(c for group in level for c in group) != list(range(self.classes)):
                raise ValueError(f"levels: expected each to hold the classes 0..{self.classes - 1} once, got {level}")
        self.leaves = [1] * self.classes + [len(group) for level in self.levels for group in level]

    def table(self) -> Tensor:
        """The vertex [levels + 1, C] of each class at each level, the classes themselves first."""
        table, first = torch.arange(self.classes).repeat(len(self.levels) + 1, 1), self.classes
        for k, level in enumerate(self.levels):
            for group in level:
                table[k + 1, group] = first
                first += 1
        return table

    def level_of(self, margin: Tensor) -> Tensor:
        """The level of each pixel by its mean margin."""
        return torch.stack([margin < limit for limit in self.margins]).sum(0)

    def gains(self) -> Tensor:
        """What knowing a vertex is worth: (log C - log leaves) / log C; 1 for a class, 0 for "any class"."""
        leaves = torch.tensor(self.leaves, dtype=torch.float64)
        return 1 - leaves.log() / math.log(self.classes)

    def about(self) -> list[object]:
        """As JSON values."""
        return [self.levels, self.margins]


def _falling(margins: Sequence[float]) -> bool:
    """NaN does not fall."""
    return list(margins) == sorted(margins, reverse=True) and not any(math.isnan(m) for m in margins)
