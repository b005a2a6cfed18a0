"""DistillPurifier: a purifier of many steps taught to one of a single network call. Our own recipe."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..attack import Attack
from ..images import trusted
from ..modes import evaluating
from ..recipe import Batch, Recipe
from ..stage import Stage
from ..task import Task
from ._parts import attacked, check_fits, check_parts, check_share, check_weight


class DistillPurifier(Recipe, name="distill_purifier"):
    """`student(x)` becomes what `teacher(x)` is, on clean images and on images attacked in front of `model`: our own.

    `share` of each batch is attacked through `student` and `model`, as an attacker who knows the student would. Loss: the mean
    absolute difference to the teacher's images, and `weight` times the task's loss of `model` behind the student (0 for none;
    the labels are used by that term and by the attack). A random teacher is drawn anew for each batch: the student learns its
    mean. Teacher and model stay as they are. (After consistency distillation's one-call students, such as OSCP, 2024; the
    losses here are our choice.)
    """

    def __init__(
        self,
        teacher: Stage,
        student: Stage,
        model: nn.Module,
        task: Task,
        attack: Attack,
        share: float = 0.5,
        weight: float = 0.0,
    ) -> None:
        super().__init__()
        check_parts(model, task, attack)
        for what, stage in (("teacher", teacher), ("student", student)):
            if not isinstance(stage, Stage):
                raise TypeError(f"{what}: expected a purifier such as rr.purifiers.Diffusion, got {type(stage).__name__}")
        shared = {id(weight) for weight in teacher.parameters()} & {id(weight) for weight in student.parameters()}
        if shared:
            raise ValueError("student: expected weights of its own, it shares some with the teacher: hand over a deep copy")
        self.teacher, self.student, self.model, self.task, self.attack = teacher, student, model, task, attack
        self.share, self.weight = check_share(share, "share"), check_weight(weight, "weight")

    @property
    def trained(self) -> nn.Module:
        """The student."""
        return self.student

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, and its parts."""
        chain = nn.Sequential(self.student, self.model)
        target = batch.truth()
        check_fits(self.model, self.task, batch.images, target)
        with evaluating(chain):
            images = attacked(self.attack, chain, batch.images, self.task.untargeted(target), self.share)
        with torch.no_grad(), trusted():
            wanted = self.teacher(images)
        found = self.student(images)
        apart = F.l1_loss(found, wanted)
        if self.weight == 0:
            return {"loss": apart}
        told = self.task.loss(self.model(found), target).mean()
        return {"loss": apart + self.weight * told, "difference": apart.detach(), "task": told.detach()}
