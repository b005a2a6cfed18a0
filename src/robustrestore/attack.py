"""Attack: images that raise an objective within a threat. The promises are kept here, once for all attacks."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace as changed
from typing import ClassVar, final

import torch
from torch import Tensor

from .component import Component
from .images import check_images, trusted
from .modes import evaluating
from .task import Objective
from .threat import Threat

Model = Callable[[Tensor], Tensor]
_NO_GRADIENT = (
    "model: expected outputs that depend on the images differentiably, got none: attack pipeline.straight_through(), "
    "or use an attack that needs no gradient"
)


class Attack(Component, kind="attacks"):
    """Finds images near the given ones that raise an objective. Plug-ins write `run`; `__call__` is final.

    Kept for every attack: inputs are checked and left unchanged, the model runs in evaluation mode and is handed back
    as it was, no gradient is stored in it, it works under `no_grad`, and the result is inside the threat and [0, 1].
    An attack whose class says `mirrors = True` is handed the mirrored objective.
    """

    mirrors: ClassVar[bool] = False
    threat: Threat

    @final
    def __call__(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Attacked images, detached, with the shape, dtype and device of `images` [N, C, H, W] in [0, 1]."""
        check_images(images)
        if not isinstance(objective, Objective):
            raise TypeError(
                f"objective: expected an Objective, got {type(objective).__name__}: write task.untargeted(labels), "
                "for example rr.tasks.Classification().untargeted(labels)"
            )
        if len(objective.target) != len(images):
            raise ValueError(f"objective: expected {len(images)} targets, one an image, got {len(objective.target)}")
        goal = objective.mirrored() if self.mirrors else objective
        with evaluating(model), trusted(), torch.inference_mode(False), torch.enable_grad():
            original = images.detach().clone()
            wide = original if original.dtype.itemsize > 4 else original.float()
            goal = changed(goal, target=goal.target.clone())  # it may have been made under inference_mode
            found = self.run(lambda x: one_tensor(model(x.to(images.dtype))), wide, goal)
            if found.shape != wide.shape:
                raise ValueError(f"{type(self).__name__}: expected run to keep {list(wide.shape)}, got {list(found.shape)}")
            return self._inside(found.detach(), wide, images.dtype)

    def _inside(self, found: Tensor, original: Tensor, dtype: torch.dtype) -> Tensor:
        """Project, with room for the rounding of half precision so that this does not leave the ball either."""
        if not bool(found.isfinite().all()):
            raise ValueError(f"{type(self).__name__}: expected run to give finite images, got NaN or infinity")
        allowed = self.threat.project(found, original)
        if dtype.itemsize < 4 and self.threat.eps > 0:
            room = max(0.0, 1 - torch.finfo(dtype).eps / 2 / self.threat.eps)
            allowed = original + (allowed - original) * room
            size = self.threat.size(allowed.to(dtype).to(original) - original)
            outside = (size > self.threat.eps).view(-1, *[1] * (original.dim() - 1))
            shorter = original + (allowed - original) * (0.9 * self.threat.eps / size.clamp(min=1e-12)).view_as(outside)
            allowed = torch.where(outside, shorter, allowed)
        return allowed.to(dtype)

    @abstractmethod
    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Images that raise `objective.gain(model(...))`; start from `images` and keep the best one seen (`Best`)."""


def one_tensor(outputs: object) -> Tensor:
    """`outputs` if they are one tensor; TypeError that names Adapted otherwise."""
    if isinstance(outputs, Tensor):
        return outputs
    raise TypeError(f"outputs: expected one tensor, got {type(outputs).__name__}: wrap the model, Adapted(model, pick=...)")


class Best:
    """Per image, the one with the highest gain seen so far. No synchronisation with the device."""

    def __init__(self, images: Tensor, gain: Tensor) -> None:
        self.images, self.gain = images.detach().clone(), gain.detach()

    def update(self, images: Tensor, gain: Tensor) -> None:
        """Keep each of `images` [N, ...] whose `gain` [N] is higher; NaN is not."""
        better = gain.detach() > self.gain
        self.images = torch.where(better.view(-1, *[1] * (images.dim() - 1)), images.detach(), self.images)
        self.gain = torch.where(better, gain.detach(), self.gain)


def mean_gain(model: Model, images: Tensor, objective: Objective, samples: int = 1) -> Tensor:
    """The gain [N] without a graph, averaged over `samples` calls of a model that may be random."""
    with torch.no_grad():
        gains = [objective.gain(model(images)) for _ in range(samples)]
    return torch.stack(gains).mean(0)


def ascent(model: Model, images: Tensor, objective: Objective, samples: int = 1) -> tuple[Tensor, Tensor]:
    """The gain [N] and its gradient in the images, both averaged over `samples` calls.

    Averaging gradients of the gain over a defence's randomness is EOT (Athalye et al., 2018). Entries that are not
    finite count as 0. Raises ValueError where the model gives no gradient.
    """
    leaf = images.detach().requires_grad_()
    gains, total = [], torch.zeros_like(images)
    scale = 2.0 ** (max(1, images[0].numel()).bit_length() - 1) if len(images) else 1.0  # a mean's underflows in float16
    for _ in range(samples):
        gain = objective.gain(model(leaf))
        if not gain.requires_grad:
            raise ValueError(_NO_GRADIENT)
        (gradient,) = torch.autograd.grad(gain.sum() * scale, leaf, allow_unused=True)
        if gradient is None:
            raise ValueError(_NO_GRADIENT)
        gains.append(gain.detach())
        total += gradient / scale
    return torch.stack(gains).mean(0), torch.nan_to_num(total / samples, nan=0.0, posinf=0.0, neginf=0.0)
