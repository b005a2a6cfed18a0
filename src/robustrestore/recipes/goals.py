"""Goals: what PEARL (Jiao et al., 2023) trains a restorer towards. The clean image, or one of three readings of its mirror."""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..attack import Attack
from ..component import Component
from ..files import digest
from ..loss import Loss
from ..modes import evaluating
from ..recipe import Batch
from ..task import Task
from ._parts import check_distance


class Lesson(NamedTuple):
    """One batch of a restorer's training: what it meets, before the attack, what it should make of it, what comes on top."""

    images: Tensor
    wanted: Tensor
    extra: Tensor | None = None  # further images, wanted alike, that are not attacked


class Goal(Component, nn.Module, kind="goals"):
    """What restored images should be, and how far they are from that. Plug-ins write `run`.

    `distance`: a loss of images that is lowered, such as `losses.L1()`, `losses.Dissimilarity()` or `losses.Perceptual(...)`;
    None is the mean squared error.
    """

    distance: Loss | None

    def __init__(self, distance: Loss | None = None) -> None:
        super().__init__()
        self.distance = check_distance(distance, "distance")

    @abstractmethod
    def run(self, model: nn.Module, task: Task, batch: Batch) -> Lesson:
        """The lesson of a batch; `model` is the frozen one behind the restorer."""


class CleanGoal(Goal, name="clean_goal"):
    """The image without degradation: PEARL without its mirror."""

    def run(self, model: nn.Module, task: Task, batch: Batch) -> Lesson:
        """From the images to the clean ones."""
        return Lesson(batch.images, batch.intact())


class Mirrored(Goal):
    """A goal that looks for the clean image's mirror: moved by `attack` so that `model` alone finds it easier.

    `cached` keeps the mirror of each image by its place in the data set, on the CPU: 4 bytes a value, so 760 MB for 367 frames
    of 360 x 480. The mirror depends on the clean image, its label and the model: a changed model empties the cache, and a data
    set that crops, flips or otherwise changes an image from one reading to the next, and a second data set, raise ValueError.
    """

    def __init__(self, attack: Attack, distance: Loss | None = None, cached: bool = False) -> None:
        super().__init__(distance)
        if not isinstance(attack, Attack) or not attack.mirrors:
            raise TypeError(f"attack: expected one that mirrors, such as rr.attacks.AMA(rr.Linf(4 / 255)), got {attack!r}")
        self.attack, self.cached = attack, cached
        self._known: dict[int, tuple[str, Tensor]] = {}
        self._state: list[tuple[int, int]] = []

    def mirror(self, model: nn.Module, task: Task, batch: Batch) -> Tensor:
        """The clean images, made easier for `model`; from the cache where there is one."""
        clean, target = batch.intact(), batch.truth()
        if not self.cached:
            return self._made(model, task, clean, target)
        if batch.index is None:
            raise ValueError("cached: expected batches with an index, got none: use fit, or cached=False")
        state = [(id(tensor), tensor._version) for tensor in (*model.parameters(), *model.buffers())]
        if state != self._state:
            self._known, self._state = {}, state
        places = batch.index.tolist()
        prints = [digest(image, label) for image, label in zip(clean, target, strict=True)]
        if changed := [p for p, seen in zip(places, prints, strict=True) if p in self._known and self._known[p][0] != seen]:
            raise ValueError(
                f"cached: expected the same clean image and label at every reading, image {changed[0]} has changed: set "
                "cached=False if the data set augments; make a new goal if it is another one than in an earlier fit"
            )
        if new := [k for k, place in enumerate(places) if place not in self._known]:
            for k, found in zip(new, self._made(model, task, clean[new], target[new]), strict=True):
                self._known[places[k]] = prints[k], found.cpu()
        return torch.stack([self._known[place][1] for place in places]).to(clean)

    def _made(self, model: nn.Module, task: Task, clean: Tensor, target: Tensor) -> Tensor:
        with evaluating(model):
            return self.attack(model, clean, task.untargeted(target))


class MirrorGoal(Mirrored, name="mirror_goal"):
    """Reading A of PEARL's auxiliary mirror, our default: the goal is the mirror of the clean image.

    A restorer that gets there is as far from the clean image as the mirror is: at 4/255 a PSNR of 36.1 dB or little more, at
    8/255 of 30.1 dB. That is the price, no fault.
    """

    def run(self, model: nn.Module, task: Task, batch: Batch) -> Lesson:
        """From the images to the mirror."""
        return Lesson(batch.images, self.mirror(model, task, batch))


class MirrorInput(Mirrored, name="mirror_input"):
    """Reading B: what the mirror adds to the clean image is added to the degraded one, before the attack."""

    def run(self, model: nn.Module, task: Task, batch: Batch) -> Lesson:
        """From images made easier to the clean ones."""
        added = self.mirror(model, task, batch) - batch.intact()
        return Lesson((batch.images + added).clamp(0, 1), batch.intact())


class MirrorBatch(Mirrored, name="mirror_batch"):
    """Reading C: images made easier as in B are a second batch beside the attacked one.

    As a warm start instead: a `fit` of PEARL with `attacks.AMA` for its attack, before the one with `attacks.NAA`.
    """

    def run(self, model: nn.Module, task: Task, batch: Batch) -> Lesson:
        """From the images, and from easier ones, to the clean ones."""
        added = self.mirror(model, task, batch) - batch.intact()
        return Lesson(batch.images, batch.intact(), (batch.images + added).clamp(0, 1))
