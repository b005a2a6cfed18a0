"""PurifyFinetune (Dong et al., 2025): purify by diffusion, then tune the restorer on what comes out."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..attack import Attack
from ..images import trusted
from ..loss import Loss
from ..pipeline import DefendedPipeline
from ..recipe import Batch, Recipe
from ..stage import Purifier, Stage
from ..task import Task
from ._parts import attacked, check_distance, check_parts, check_pipeline, check_share, check_weight, distance


class PurifyFinetune(Recipe, name="purify_finetune"):
    """Tune a model to purified images (Dong et al., Sensors 2025, for cameras behind a display): task loss, perceptual loss.

    Each batch goes through the pipeline's purifiers at one level, uniform in `sigmas` (low, high), with fresh noise whatever
    their seeds, frozen and without a graph; then `part`, a dotted path, is trained: "model", or "stages.1" for a restorer
    behind a purifier. `share` of each batch is attacked first, anew against the tuned model in each step (`attack` None: clean
    inputs alone); `through`: what the attack differentiates, "" for the purifier too, at the batch's level, "model" for the
    model alone. `weight` times a `perceptual` loss of images such as `losses.Perceptual(features)` is added; 0.01 is DISCNet's
    (2021).

    The paper's text was not available to us. It varies the DDPM depth, 50 to 100 of 1000 steps for one: sigma 22/255 to 43/255,
    and nearly uniform in between. Whether its attacks know the purifier it does not say: suppose not. Controls at equal budget:
    `Plain`, `AdversarialTraining` with `tasks.Restoration` (an attack on the model's own clean output has to start off it), and
    this recipe with a plain filter for the purifier. Flips and crops are the data set's.
    """

    def __init__(
        self,
        pipeline: DefendedPipeline,
        task: Task,
        attack: Attack | None = None,
        sigmas: Sequence[float] = (0.03, 0.08),
        share: float = 0.5,
        perceptual: Loss | None = None,
        weight: float = 0.01,
        through: str = "",
        part: str = "model",
    ) -> None:
        super().__init__()
        check_pipeline(pipeline)
        check_parts(pipeline, task, attack)
        self.pipeline, self.task, self.attack, self.through, self.part = pipeline, task, attack, through, part
        self.sigmas, self.share = _check_sigmas(sigmas), check_share(share, "share")
        self.perceptual, self.weight = check_distance(perceptual, "perceptual"), check_weight(weight, "weight")
        for path in (through, part):
            pipeline.get_submodule(path)  # says what is wrong with it
        if not any(_levelled(stage) for stage in pipeline.stages):
            names = [type(stage).__name__ for stage in pipeline.stages]
            raise ValueError(
                f"pipeline: expected a purifier with a level sigma among its stages, got {names}: add "
                "rr.purifiers.Diffusion.default()"
            )
        if _levelled(self.trained):
            raise ValueError(f"part: expected the model or a restorer behind the purifier, got the purifier at {part!r}")

    @property
    def trained(self) -> nn.Module:
        """The model, or the part of the pipeline."""
        return self.pipeline.get_submodule(self.part)

    def at(self, sigma: float) -> DefendedPipeline:
        """The pipeline with its purifiers at one level, drawing fresh noise; weights are shared."""
        stages = [stage for stage in self.pipeline.stages if isinstance(stage, Stage)]
        levelled = [_fresh(stage, sigma) if _levelled(stage) else stage for stage in stages]
        return DefendedPipeline(self.pipeline.model, levelled, self.pipeline.vote)

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, its parts, and the level."""
        target, (low, high) = batch.truth(), self.sigmas
        level = low + (high - low) * float(torch.rand(()))
        now = self.at(level)
        images = batch.images
        if self.attack is not None:
            aim = now.get_submodule(self.through)
            images = attacked(self.attack, aim, images, self.task.untargeted(target), self.share)
        with trusted():
            outputs = now(images)
        told = self.task.loss(outputs, target).mean()
        found = {"sigma": told.new_tensor(level)}
        if self.perceptual is None:
            return {"loss": told, **found}
        apart = distance(self.perceptual, outputs, target).mean()
        return {"loss": told + self.weight * apart, "task": told.detach(), "perceptual": apart.detach(), **found}


def _levelled(stage: nn.Module) -> bool:
    return isinstance(stage, Purifier) and "sigma" in stage.settings()


def _fresh(stage: Stage, sigma: float) -> Stage:
    return stage.replace(sigma=sigma, **({"seed": None} if "seed" in stage.settings() else {}))


def _check_sigmas(sigmas: Sequence[float]) -> list[float]:
    found = [float(sigma) for sigma in sigmas]
    if len(found) != 2 or not 0 <= found[0] <= found[1] < float("inf"):
        raise ValueError(f"sigmas: expected (low, high) with 0 <= low <= high in units of [0, 1] images, got {list(sigmas)}")
    return found
