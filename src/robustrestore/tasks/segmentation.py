"""Semantic segmentation: logits [N, classes, H, W], label maps [N, H, W], one label ignored."""

import colorsys

import torch
from torch import Tensor

from .. import metrics
from ..task import Classes, Objective, Task
from ._labels import as_labels, check_finite, check_labels, check_logits, cross_entropy


class Segmentation(Task, name="segmentation"):
    """One label per pixel. Loss: cross-entropy, mean over the labelled pixels of an image (0 if there are none).

    An image counts as solved while at least `floor` of its labelled pixels are right; that threshold is our choice, for
    the yes-or-no that some attacks need, and no metric uses it. `palette`: RGB triples 0..255 for pictures.
    """

    def __init__(self, ignore: int = 255, floor: float = 0.5, palette: list[list[int]] | None = None) -> None:
        if not 0 < floor <= 1:
            raise ValueError(f"floor: expected a share in (0, 1], got {floor}")
        self.ignore, self.floor, self.palette = ignore, floor, palette

    def check(self, outputs: Tensor, target: Tensor) -> None:
        """Expect logits [N, C, H, W] and integer labels [N, H, W] in 0..C-1 or `ignore`."""
        check_logits(outputs, target, dims=4)
        check_finite(outputs)
        check_labels(target, outputs.shape[1], self.ignore)

    def _mean(self, values: Tensor, target: Tensor) -> Tensor:
        valid = (target != self.ignore).flatten(1)
        return (values.flatten(1) * valid).sum(1) / valid.sum(1).clamp(min=1)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of the labelled pixels in nats [N]."""
        check_logits(outputs, target, dims=4)
        return self._mean(cross_entropy(outputs, target, self.ignore), target)

    def right(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The share of labelled pixels that are right [N]; 0 for an image without labels."""
        return self._mean((outputs.argmax(1) == target).float(), target)

    def correct(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Whether at least `floor` of the labelled pixels are right; an image without labels is."""
        return (self.right(outputs, target) >= self.floor) | (target == self.ignore).flatten(1).all(1)

    def metrics(self) -> tuple[metrics.Metric, ...]:
        """Mean IoU and pixel accuracy."""
        return metrics.mean_iou(self.ignore), metrics.pixel_accuracy(self.ignore)

    def untargeted(self, target: Tensor) -> Objective:
        """Raise the cross-entropy of the true map; reached when less than `floor` of it is right. Harm: the share wrong."""
        return Objective(
            self.loss,
            lambda outputs, labels: ~self.correct(outputs, labels),
            as_labels(target, "target"),
            harmed=lambda outputs, labels: 1 - self.right(outputs, labels),
            classes=Classes(self.ignore),
        )

    def targeted(self, wanted: Tensor) -> Objective:
        """Lower the cross-entropy of the wanted map; reached when at least `floor` of it is shown. Harm: that share."""
        return Objective(
            lambda outputs, labels: -self.loss(outputs, labels),
            self.correct,
            as_labels(wanted, "wanted"),
            harmed=self.right,
            classes=Classes(self.ignore),
            towards=True,
        )

    def render(self, outputs: Tensor, images: Tensor) -> Tensor:
        """The predicted classes as colours."""
        guess = outputs.argmax(1)
        colours = self.palette or [
            [int(255 * v) for v in colorsys.hsv_to_rgb(i * 0.618 % 1, 0.65, 0.95)] for i in range(outputs.shape[1])
        ]
        table = torch.tensor(colours, device=guess.device, dtype=torch.float32) / 255
        return table[guess.clamp(max=len(table) - 1)].permute(0, 3, 1, 2)
