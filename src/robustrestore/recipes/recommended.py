"""Recommended: the whole pipeline under attack, towards what its own model said of clean images before. Our own composition."""

import copy

import torch
from torch import Tensor, nn

from ..attack import Attack
from ..images import check_images, trusted
from ..losses.divergence import divergence
from ..modes import evaluating
from ..pipeline import DefendedPipeline
from ..recipe import Batch, Recipe
from ..stage import Restorer
from ..task import Task
from ._parts import attacked, check_parts, check_pipeline, check_share


class Recommended(Recipe, name="recommended"):
    """Adversarial training of restorers and model together, through the exact pipeline, with a teacher: what held best here.

    (1 - weight) task.loss(pipeline(x'), target) + weight divergence(teacher(clean), pipeline(x')), where `share` of each batch
    is attacked anew through the whole pipeline as it is then. `teacher` sees the images without degradation and attack (`clean`
    where the batch has it, else `images`); None is a frozen copy of the pipeline's model as it is when the recipe is made, so
    begin with a trained model, and make the recipe from that one again to go on after a crash. Trained are the model and all
    restorers with weights; purifiers stay frozen, and the attack differentiates them. Parts: adversarial training (Madry et
    al., 2018), a teacher for it (Goldblum et al., 2020), the divergence of TRADES (Zhang et al., 2019); their combination and
    the defaults are our choice, after the table in the docs.
    """

    def __init__(
        self,
        pipeline: DefendedPipeline,
        task: Task,
        attack: Attack,
        weight: float = 0.9,
        share: float = 0.75,
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_pipeline(pipeline)
        check_parts(pipeline, task, attack)
        if attack is None or attack.mirrors:
            raise ValueError(f"attack: expected one that does harm, such as rr.attacks.PGD(rr.Linf(4 / 255)), got {attack!r}")
        if teacher is not None and not isinstance(teacher, nn.Module):
            raise TypeError(f"teacher: expected a torch.nn.Module, got {type(teacher).__name__}")
        self.pipeline, self.task, self.attack, self.teacher = pipeline, task, attack, teacher
        self.weight, self.share = check_share(weight, "weight"), check_share(share, "share")
        ours = {id(weight) for weight in self.trained.parameters()}
        if teacher is not None and any(id(weight) in ours for weight in teacher.parameters()):
            raise ValueError("teacher: expected weights of its own, it shares some with what is trained: hand over a deep copy")
        self._before: nn.Module = copy.deepcopy(pipeline.model) if teacher is None else teacher

    @property
    def trained(self) -> nn.Module:
        """The restorers with weights, and the model."""
        stages = [s for s in self.pipeline.stages if isinstance(s, Restorer) and any(True for _ in s.parameters())]
        return nn.ModuleList([*stages, self.pipeline.model])

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, its part from the labels, and the divergence from the teacher."""
        target = batch.truth()
        goal = self.task.untargeted(target)
        clean = batch.images if batch.clean is None else batch.clean
        check_images(clean, "clean")
        with torch.no_grad(), evaluating(self._before):
            wanted = self._before(clean)
        images = attacked(self.attack, self.pipeline, batch.images, goal, self.share)
        with trusted():
            outputs = self.pipeline(images)
        if not isinstance(wanted, Tensor) or wanted.shape != outputs.shape:
            got = list(wanted.shape) if isinstance(wanted, Tensor) else type(wanted).__name__
            raise ValueError(
                f"teacher: expected answers {list(outputs.shape)} as the pipeline's, got {got}: the same classes, clean images "
                "of the same size"
            )
        told = self.task.loss(outputs, target).mean()
        apart = divergence(wanted, outputs, goal).mean()
        return {
            "loss": (1 - self.weight) * told + self.weight * apart,
            "task": told.detach(),
            "divergence": apart.detach(),
        }
