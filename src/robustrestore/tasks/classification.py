"""Classification: logits [N, classes], labels [N]."""

import torch
from torch import Tensor

from .. import metrics
from ..task import Classes, Objective, Task
from ._labels import as_labels, check_finite, check_labels, check_logits, sharp_cross_entropy


class Classification(Task, name="classification"):
    """One label per image. Loss: cross-entropy. Solved: the largest logit is the label."""

    def check(self, outputs: Tensor, target: Tensor) -> None:
        """Expect logits [N, C] and integer labels [N] in 0..C-1."""
        check_logits(outputs, target, dims=2)
        check_finite(outputs)
        check_labels(target, outputs.shape[1], ignore=None)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy in nats [N]."""
        check_logits(outputs, target, dims=2)
        return sharp_cross_entropy(outputs, target)

    def correct(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Whether the largest logit is the label."""
        return outputs.argmax(1) == target

    def metrics(self) -> tuple[metrics.Metric, ...]:
        """Accuracy."""
        return (metrics.accuracy(),)

    def untargeted(self, target: Tensor) -> Objective:
        """Raise the cross-entropy of the true label; reached when another class wins, which is all the harm."""

        def wrong(outputs: Tensor, labels: Tensor) -> Tensor:
            return ~self.correct(outputs, labels)

        return Objective(self.loss, wrong, as_labels(target, "target"), harmed=wrong, classes=Classes())

    def targeted(self, wanted: Tensor) -> Objective:
        """Lower the cross-entropy of the wanted label; reached when it wins, which is all the harm."""
        goal = as_labels(wanted, "wanted")
        right = self.correct
        return Objective(lambda o, t: -self.loss(o, t), right, goal, harmed=right, classes=Classes(), towards=True)

    def render(self, outputs: Tensor, images: Tensor) -> Tensor:
        """The image with a bar below it whose length is the winning class's probability."""
        pictures = images[:, :3].expand(-1, 3, -1, -1).detach().float().clone()
        height, width = pictures.shape[2:]
        share = outputs.detach().float().softmax(1).amax(1)
        filled = torch.arange(width, device=images.device)[None] < (share * width)[:, None]
        pictures[:, :, -max(1, height // 16) :] = filled[:, None, None].to(pictures)
        return pictures
