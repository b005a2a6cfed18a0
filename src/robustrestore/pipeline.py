"""DefendedPipeline: a user's model behind a sequence of stages."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from .component import Component
from .images import check_images
from .runs import Runs, repeated
from .stage import Stage, StraightThrough
from .vote import Vote


class DefendedPipeline(Component, nn.Module, kind="pipelines", name="defended"):
    """`stages` one after the other, then `model`. A plain `nn.Module`: gradients flow through all of it.

    Attacking the pipeline is the exact white-box attack, attacking `pipeline.predict` the one of an attacker who does
    not know the defence, attacking `pipeline.straight_through()` the BPDA one. `vote`: the class scores of several runs
    become one, each run with stages of other seeds, one run after the other; `clean` shows the first.
    """

    def __init__(self, model: nn.Module, stages: Stage | Sequence[Stage] = (), vote: Vote | None = None) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}: wrap a function in a module")
        parts = list(stages) if isinstance(stages, Iterable) else [stages]
        for part in parts:
            if not isinstance(part, Stage):
                what = f"the class {part.__name__}" if isinstance(part, type) else type(part).__name__
                hint = "call it to make one" if isinstance(part, type) else "wrap an image-to-image module in restorers.Network"
                raise TypeError(f"stages: expected purifiers and restorers, got {what}: {hint}")
        if not isinstance(vote, Vote | None):
            raise TypeError(f"vote: expected a vote such as rr.MeanVote(runs=10), got {type(vote).__name__}")
        self.model, self.vote = model, vote
        self.stages = nn.ModuleList(parts)
        self._runs = self._repeated()

    def _repeated(self) -> list[Runs]:
        """The runs of each stage beyond the first."""
        count = 0 if self.vote is None else self.vote.runs - 1
        return [Runs(stage, partial(_repeated, count=count)) for stage in self.stages]

    def _further(self) -> list[list[nn.Module]]:
        """The stages of each run of a vote after the first; their modules are those of the first, and not listed again."""
        count = 0 if self.vote is None else self.vote.runs - 1
        if [len(one) for one in self._runs] != [count] * len(self.stages):  # stages were added, or there is another vote
            self._runs = self._repeated()
        runs = [one.of(stage) for one, stage in zip(self._runs, self.stages, strict=True)]
        return [[run[k] for run in runs] for k in range(count)]

    def clean(self, images: Tensor) -> Tensor:
        """What the stages make of `images` [N, C, H, W] in [0, 1]."""
        check_images(images)
        return _through(self.stages, images)

    def predict(self, images: Tensor) -> Tensor:
        """The model's outputs for images as they are, past the defence."""
        check_images(images)
        outputs: Tensor = self.model(images)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """The model's outputs behind the defence."""
        outputs: Tensor = self.model(self.clean(images))
        if self.vote is None:
            return outputs
        return self.vote([outputs, *(self.model(_through(stages, images)) for stages in self._further())])

    def straight_through(self) -> "DefendedPipeline":
        """The same pipeline with the identity as the gradient of every stage; modules are shared."""
        return DefendedPipeline(self.model, [StraightThrough(stage) for stage in _stages(self)], self.vote)


def _repeated(stage: nn.Module, count: int) -> list[Any]:
    return repeated(stage, "vote", count) if isinstance(stage, Stage) else [stage] * count


def _through(stages: Iterable[nn.Module], images: Tensor) -> Tensor:
    for stage in stages:
        images = stage(images)
    return images


def _stages(pipeline: DefendedPipeline) -> list[Stage]:
    stages = [stage for stage in pipeline.stages if isinstance(stage, Stage)]
    if len(stages) != len(pipeline.stages):
        names = [type(stage).__name__ for stage in pipeline.stages]
        raise TypeError(f"stages: expected purifiers and restorers, got {names}: compile the whole pipeline, not one stage")
    return stages
