"""Distill: a surrogate learns what a target answers, under the noise that it will be smoothed with (the DUCD recipe)."""

import torch
from torch import Tensor, nn

from ..certify import Noise
from ..images import trusted
from ..oracle import Gap, Queried
from ..recipe import Batch, Recipe
from ..task import Task
from ._parts import check_parts


class Distill(Recipe, name="distill"):
    """An implementation of the DUCD recipe (Li et al., 2024): |target(x) - surrogate(x + e)|, e fresh smoothing noise.

    The paper's text was not available to us: the loss is that of a summary, all else is our choice. `oracle`: the target, seen
    by queries alone; it is asked for `x` as the data set yields it, and each image is paid for once, over all epochs and all
    runs with its cache. No label of the data is used. `surrogate`: what is trained, and what is to be smoothed and deployed;
    the certificate is the smoothed surrogate's and says nothing of the target. `noise`: None trains without, and the radii then
    collapse; for target(x + e) let the data set hold the noisy images (`data.Noisy`). `gap`: the loss, by default the tier's:
    L1 on logits, centred L1 on log-probabilities, the task's own on labels. Label maps and restored images go by the same
    recipe, per pixel: a DUCD-style extension of ours.
    """

    needs = ("images",)

    def __init__(
        self, oracle: Queried, surrogate: nn.Module, task: Task, noise: Noise | None = None, gap: Gap | None = None
    ) -> None:
        super().__init__()
        check_parts(surrogate, task, None)
        if not isinstance(oracle, Queried):
            raise TypeError(f"oracle: expected rr.oracle.Queried(target), got {type(oracle).__name__}")
        if not isinstance(noise, Noise | None):
            raise TypeError(f"noise: expected one such as rr.certify.Gaussian(0.25), or None, got {type(noise).__name__}")
        if not isinstance(gap, Gap | None):
            raise TypeError(f"gap: expected one such as rr.oracle.L1Gap(), or None, got {type(gap).__name__}")
        self.oracle, self.surrogate, self.task, self.noise, self.gap = oracle, surrogate, task, noise, gap

    @property
    def trained(self) -> nn.Module:
        """The surrogate."""
        return self.surrogate

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The mean loss, and the share of (noisy) images on which the surrogate's answer is the target's."""
        tier = self.oracle.tier
        answers = self.oracle(batch.images)
        images = batch.images
        if self.noise is not None:
            images = self.noise.applied(images, self.noise.sample_like(images))
        with trusted():  # noisy values lie outside [0, 1], as they will when the surrogate is smoothed
            found = self.surrogate(images)
        gap = tier.gap() if self.gap is None else self.gap
        loss = gap(found, answers, tier, self.task).mean()
        with torch.no_grad():
            agreed = self.task.correct(found.detach(), tier.truth(answers)).float().mean()
        return {"loss": loss, "agreement": agreed}
