"""Adaptive: every image gets the stage that makes it look clean to the task network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..arguments import number, whole
from ..feature import Features, Gaussian
from ..modes import evaluating
from ..stage import Purifier, Stage


class Adaptive(Purifier, name="adaptive"):
    """Of several `stages` (levels of one purifier, say), per image the one with the most typical features: our own.

    Beside ANLS (Yu et al., 2024), which chooses one level for a whole set. Score of a purified image: |d / D - 1|, where d is
    the squared Mahalanobis distance of its features [D] of `module` of `model` to clean ones, of mean D where they are
    Gaussian. (The plain distance falls the more is smoothed away.) No labels; `of` takes the clean statistics in, and `replace`
    cannot change what they were measured with. Costs
    all stages and as many calls of `model` for every image, and on no network that we measured was it better than one level
    chosen by `Answers` (docs/purification.md).

    `temperature` 0 takes the best stage: gradients are exact almost everywhere, and blind to a change of choice. Above 0 it
    blends the stages' images by softmin of score / temperature, differentiable throughout: hand that to an attacker, as
    `replace(temperature=...)`; `pipeline.straight_through()` is the view without any gradient of ours.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        model: nn.Module,
        module: str,
        width: int,
        dims: int | None = None,
        temperature: float = 0.0,
    ) -> None:
        super().__init__()
        parts = list(stages)
        if not parts or not all(isinstance(part, Stage) for part in parts):
            raise TypeError(f"stages: expected at least one purifier or restorer, got {[type(p).__name__ for p in parts]}")
        Features(model, module, dims)  # says what is wrong with them
        self.stages = nn.ModuleList(parts)
        self.model, self.module, self.width = model, module, whole(width, "width")
        self.dims = None if dims is None else whole(dims, "dims")
        self.temperature = number(temperature, "temperature")
        self.mean: Tensor
        self.whitening: Tensor
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("whitening", torch.zeros(self.width, self.width))

    @classmethod
    def of(cls, stages: Sequence[Stage], features: Features, clean: Gaussian, ridge: float = 1e-3) -> "Adaptive":
        """With the statistics of clean images; `ridge`, a share of the mean variance, is added to each variance."""
        if clean.key != features.key:
            raise ValueError(f"clean: expected statistics of {features.key}, got {clean.key}: measure them again")
        made = cls(stages, features.model, features.module, len(clean.mean), features.dims)
        values, vectors = torch.linalg.eigh(clean.covariance)
        wide = values.clamp(min=0) + number(ridge, "ridge") * values.mean().clamp(min=1e-12)
        made.mean.copy_(clean.mean)
        made.whitening.copy_(vectors * wide.rsqrt())
        return made

    def check_replaced(self, names: set[str]) -> None:
        """The statistics are those of one model, module, width and dims."""
        if (tied := sorted(names & {"model", "module", "width", "dims"})) and bool(self.whitening.any()):
            raise ValueError(
                f"Adaptive: expected {', '.join(tied)} as the statistics of clean images were measured with, got others: make "
                "a new one with Adaptive.of(stages, features, features.statistics(clean))"
            )

    def score(self, images: Tensor) -> Tensor:
        """How untypical images [N, C, H, W] look, [N]; 0 is a clean image of mean distance."""
        if not torch.compiler.is_compiling() and not bool(self.whitening.any()):
            raise ValueError("Adaptive: expected statistics of clean images: make it with Adaptive.of(...)")
        with evaluating(self.model):
            rows = Features(self.model, self.module, self.dims)(images)
        white = (rows - self.mean.to(rows)) @ self.whitening.to(rows)
        return (white.square().mean(1) - 1).abs()

    def candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What each stage makes of the images [K, N, C, H, W], and the scores [K, N]."""
        made = torch.stack([stage(images) for stage in self.stages])
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.temperature > 0):
            return made, torch.stack([self.score(one) for one in made])

    def choose(self, images: Tensor) -> Tensor:
        """The index [N] of the chosen stage, the first one of equals."""
        with torch.no_grad():
            return self.candidates(images)[1].argmin(0)

    def run(self, images: Tensor) -> Tensor:
        """The chosen stage's image, or the blend of all."""
        made, scores = self.candidates(images)
        if self.temperature == 0:
            return made[scores.argmin(0), torch.arange(len(images), device=made.device)]
        weights = torch.softmax(-scores / self.temperature, dim=0)
        return (made * weights.to(made)[:, :, None, None, None]).sum(0)
