"""PEARL (Jiao et al., 2023): the restorer in front of a frozen model learns to make up for attacks on it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..attack import Attack
from ..images import trusted
from ..pipeline import DefendedPipeline
from ..recipe import Batch, Recipe
from ..stage import Restorer
from ..task import Task
from ._parts import attacked, check_parts, check_pipeline, check_share, check_weight, distance
from .goals import CleanGoal, Goal


class PEARL(Recipe, name="pearl"):
    """Train restorers on attacked, degraded images in front of a frozen model (Jiao et al., ACM MM 2023).

    distance(restored(x'), goal) + weight task.loss(model(restored(x')), target), where x' is attacked anew in each step,
    through the stages as they are then. The abstract gives the idea; the text was not available to us, so this is no
    reproduction: what it leaves open is an argument, and all defaults are our choice. `goal`: the clean image (`CleanGoal`, the
    default: PEARL without its mirror), or a reading of the auxiliary mirror: `MirrorGoal(rr.attacks.AMA(...))`, `MirrorInput`,
    `MirrorBatch`. Of each batch `share` is attacked, the rest keeps the clean term. `through`: what the attack differentiates,
    "" for the whole pipeline, "model" for the model alone. `stages`: the places of the stages that are trained, by default all
    restorers with weights; purifiers stay frozen unless named. Inference is the pipeline: no label, no attack, no mirror.
    """

    needs = ("images", "target", "clean")

    def __init__(
        self,
        pipeline: DefendedPipeline,
        task: Task,
        attack: Attack,
        goal: Goal | None = None,
        weight: float = 0.0,
        share: float = 1.0,
        through: str = "",
        stages: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_pipeline(pipeline)
        check_parts(pipeline, task, attack)
        if not isinstance(goal, Goal | None):
            raise TypeError(f"goal: expected one such as rr.recipes.CleanGoal(), got {type(goal).__name__}")
        self.pipeline, self.task, self.attack, self.through = pipeline, task, attack, through
        self.goal: Goal = CleanGoal() if goal is None else goal
        self.weight, self.share = check_weight(weight, "weight"), check_share(share, "share")
        self.stages = None if stages is None else list(stages)
        self._places = _trainable(pipeline) if self.stages is None else self.stages
        _check_places(self._places, pipeline)
        pipeline.get_submodule(through)  # says what is wrong with it

    @property
    def trained(self) -> nn.Module:
        """The one stage, or a list of them."""
        chosen = [self.pipeline.stages[place] for place in self._places]
        return chosen[0] if len(chosen) == 1 else nn.ModuleList(chosen)

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, the distance, and the task's loss behind the restorer."""
        target, model = batch.truth(), self.pipeline.model
        lesson = self.goal.run(model, self.task, batch)
        aim = self.pipeline.get_submodule(self.through)
        images = attacked(self.attack, aim, lesson.images, self.task.untargeted(target), self.share)
        wanted = lesson.wanted
        if lesson.extra is not None:
            images, wanted, target = torch.cat([images, lesson.extra]), wanted.repeat(2, 1, 1, 1), torch.cat([target, target])
        with trusted():
            restored = self.pipeline.clean(images)
            apart = distance(self.goal.distance, restored, wanted).mean()
            if self.weight == 0:
                return {"loss": apart}
            told = self.task.loss(model(restored), target).mean()
        return {"loss": apart + self.weight * told, "distance": apart.detach(), "task": told.detach()}


def _trainable(pipeline: DefendedPipeline) -> list[int]:
    return [k for k in _held(pipeline) if isinstance(pipeline.stages[k], Restorer)]


def _held(pipeline: DefendedPipeline) -> list[int]:
    """Places of the stages with weights."""
    return [k for k, stage in enumerate(pipeline.stages) if any(True for _ in stage.parameters())]


def _check_places(places: Sequence[int], pipeline: DefendedPipeline) -> None:
    """ValueError unless they name stages with weights that the model behind them does not share."""
    held = _held(pipeline)
    if not places or len(set(places)) < len(places) or not set(places) <= set(held):
        raise ValueError(
            f"stages: expected places of stages with weights, each once, out of {held}, got {list(places)}: put a restorer "
            "into the pipeline, rr.DefendedPipeline(model, [rr.restorers.UNet.derain()])"
        )
    ours = {id(weight) for place in places for weight in pipeline.stages[place].parameters()}
    if ours & {id(weight) for weight in pipeline.model.parameters()}:
        raise ValueError(
            "stages: expected weights of their own, they share some with the model, which is frozen: deep-copy one"
        )
