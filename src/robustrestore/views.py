"""Views of a defended pipeline beside `evaluate.VIEWS`: what an attacker may differentiate instead of the whole defence."""

from functools import partial

from .arguments import whole
from .measurement import View
from .pipeline import DefendedPipeline
from .purifiers import DensePure, Diffusion, Rounds
from .runs import rebuilt
from .stage import Stage


def surrogate(steps: int = 5) -> View:
    """The view of an attacker who samples with at most `steps` steps a round, to save time (Lee and Kim, 2023).

    For `evaluate(..., views={**VIEWS, "surrogate": surrogate(5)})`, or called on a pipeline. Levels, seeds, networks, the
    vote and everything else stay; so does a stage that does not sample. The defence is scored as it is. A search
    with it is cheap, not exact: quote it beside the adaptive row, not instead.
    """
    return partial(_shortened, steps=whole(steps, "steps"))


def _shortened(pipeline: DefendedPipeline, steps: int) -> DefendedPipeline:
    return pipeline.replace(stages=[_fewer(stage, steps) for stage in pipeline.settings()["stages"]])


def _fewer(stage: Stage, steps: int) -> Stage:
    """The stage, and stages that it wraps, with at most `steps` steps; itself where there are no more."""
    if isinstance(stage, Rounds):
        short: list[list[float]] = [[sigma, min(int(own), steps)] for sigma, own in stage.rounds]
        return stage if short == stage.rounds else stage.replace(rounds=short)
    if isinstance(stage, Diffusion | DensePure):
        return stage.replace(steps=steps) if stage.steps > steps else stage
    return rebuilt(stage, partial(_fewer, steps=steps))
