"""DefendedPipeline: a user's model behind a sequence of stages."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from .component import Component
from .images import check_images
from .stage import Stage, StraightThrough


class DefendedPipeline(Component, nn.Module, kind="pipelines", name="defended"):
    """`stages` one after the other, then `model`. A plain `nn.Module`: gradients flow through all of it.

    Attacking the pipeline is the exact white-box attack, attacking `pipeline.predict` the one of an attacker who does
    not know the defence, attacking `pipeline.straight_through()` the BPDA one.
    """

    def __init__(self, model: nn.Module, stages: Stage | Sequence[Stage] = ()) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}: wrap a function in a module")
        parts = list(stages) if isinstance(stages, Iterable) else [stages]
        for part in parts:
            if not isinstance(part, Stage):
                what = f"the class {part.__name__}" if isinstance(part, type) else type(part).__name__
                hint = "call it to make one" if isinstance(part, type) else "wrap an image-to-image module in restorers.Network"
                raise TypeError(f"stages: expected purifiers and restorers, got {what}: {hint}")
        self.model = model
        self.stages = nn.ModuleList(parts)

    def clean(self, images: Tensor) -> Tensor:
        """What the stages make of `images` [N, C, H, W] in [0, 1]."""
        check_images(images)
        for stage in self.stages:
            images = stage(images)
        return images

    def predict(self, images: Tensor) -> Tensor:
        """The model's outputs for images as they are, past the defence."""
        check_images(images)
        outputs: Tensor = self.model(images)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """The model's outputs behind the defence."""
        outputs: Tensor = self.model(self.clean(images))
        return outputs

    def straight_through(self) -> "DefendedPipeline":
        """The same pipeline with the identity as the gradient of every stage; modules are shared."""
        return DefendedPipeline(self.model, [StraightThrough(stage) for stage in _stages(self)])


def _stages(pipeline: DefendedPipeline) -> list[Stage]:
    stages = [stage for stage in pipeline.stages if isinstance(stage, Stage)]
    if len(stages) != len(pipeline.stages):
        names = [type(stage).__name__ for stage in pipeline.stages]
        raise TypeError(f"stages: expected purifiers and restorers, got {names}: compile the whole pipeline, not one stage")
    return stages
