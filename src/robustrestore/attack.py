"""Attack: images that raise an objective within a threat. The promises are kept here, once for all attacks."""

from abc import abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from .component import Component
from .images import check_images, per_image, trusted
from .modes import evaluating
from .search import Model as Model
from .task import Answer, Objective
from .threat import Threat

_IN_PLACE = "model: expected one that leaves its input as it is, got one that works on it in place: hand it images.clone()"
TASKS: dict[Answer, str] = {"label": "classification", "map": "segmentation", "image": "restoration"}


class Attack(Component, kind="attacks"):
    """Finds images near the given ones that raise an objective. Plug-ins write `run`; `__call__` is final.

    Kept for every attack: inputs are checked and left unchanged, the model runs in evaluation mode and is handed back
    as it was, no gradient is stored in it, it works under `no_grad`, and the result is inside the threat and [0, 1].
    An attack whose class says `mirrors = True` is handed the mirrored objective; one that does not fit every task names
    in `answers` what it fits: models that answer with a "label", a "map" of labels or an "image". Noise, which does not
    look for harm, says `ascends = False`: its result may lower the objective. One that needs no gradient says `blind = True`,
    one that looks for a small change, or may change a part only, `fills = False`: it is not held against noise of full size.
    """

    mirrors: ClassVar[bool] = False
    ascends: ClassVar[bool] = True
    blind: bool = False
    fills: bool = True
    answers: tuple[Answer, ...] = ("label", "map", "image")
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
        self.check(objective)
        goal = objective.mirrored() if self.mirrors else objective
        with evaluating(model), trusted(), torch.inference_mode(False), torch.enable_grad():
            original = images.detach().clone()
            wide = original if original.dtype.itemsize > 4 else original.float()
            found = self.run(lambda x: untouched(model, x.to(images.dtype)), wide, goal.cloned())
            if found.shape != wide.shape:
                raise ValueError(f"{type(self).__name__}: expected run to keep {list(wide.shape)}, got {list(found.shape)}")
            return self._inside(found.detach(), wide, images.dtype)

    @final
    def check(self, objective: Objective) -> None:
        """TypeError where the attack does not fit the objective's task."""
        if objective.answer not in self.answers:
            fits = " or ".join(TASKS[answer] for answer in self.answers)
            raise TypeError(f"{type(self).__name__}: expected an objective of {fits}, got one of {TASKS[objective.answer]}")

    def _inside(self, found: Tensor, original: Tensor, dtype: torch.dtype) -> Tensor:
        """Project, with room for the rounding of half precision so that this does not leave the ball either."""
        if not bool(found.isfinite().all()):
            raise ValueError(f"{type(self).__name__}: expected run to give finite images, got NaN or infinity")
        allowed = self.threat.project(found, original)
        if dtype.itemsize < 4 and self.threat.eps > 0:
            room = max(0.0, 1 - torch.finfo(dtype).eps / 2 / self.threat.eps)
            allowed = original + (allowed - original) * room
            for share in (0.9, 0.7, 0.0):  # rounding may lengthen a change of many small entries; no change always fits
                size = self.threat.size(allowed.to(dtype).to(original) - original)
                shorter = original + (allowed - original) * per_image(share * self.threat.eps / size.clamp(min=1e-12), original)
                allowed = torch.where(per_image(size > self.threat.eps, original), shorter, allowed)
        return allowed.to(dtype)

    @abstractmethod
    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Images that raise `objective.gain(model(...))`; ask through a `Search`, which keeps the best."""


def untouched(model: Model, images: Tensor) -> Tensor:
    """The model's answer; ValueError where it works on its input in place, which would move what changes are measured from."""
    before = None if images.is_inference() else images._version
    try:
        outputs = one_tensor(model(images))
    except RuntimeError as error:
        if "in-place operation" not in str(error):
            raise
        raise ValueError(_IN_PLACE) from error
    if before is not None and images._version != before:
        raise ValueError(_IN_PLACE)
    return outputs


def one_tensor(outputs: object) -> Tensor:
    """`outputs` if they are one tensor; TypeError that names Adapted otherwise."""
    if isinstance(outputs, Tensor):
        return outputs
    raise TypeError(f"outputs: expected one tensor, got {type(outputs).__name__}: wrap the model, Adapted(model, pick=...)")
