"""Search: the state of one attack on a batch. What is climbed, which images are still attacked, the best one seen."""

from collections.abc import Callable

import torch
from torch import Tensor

from .images import per_image
from .loss import Loss
from .task import Objective

Model = Callable[[Tensor], Tensor]
_NO_GRADIENT = (
    "model: expected outputs that depend on the images differentiably, got none: attack pipeline.straight_through(), "
    "or use an attack that needs no gradient"
)


class Search:
    """One run of an attack: it asks here for gains and gradients, and per image the best one that it showed is kept.

    Best by the objective's gain; where the objective is `judged`, by its harm first. A judged objective also lets `drop`
    leave out images with nothing left to lose. Without it there is no synchronisation with the device but one, in
    `result`. Under autocast, candidates are taken in low precision and confirmed in full precision. `judged` holds the
    objective's own gain [n] of what was shown last; `comparable`: whether the climbed gain at two images compares.
    """

    def __init__(self, model: Model, images: Tensor, objective: Objective, loss: Loss | None = None, samples: int = 1) -> None:
        self.model, self.samples = model, samples
        self.original, self.judge = images, objective
        self.climb(loss)
        count, device = len(images), images.device
        self._found: Tensor | None = None  # all images, once some were dropped
        self._best, self._place = images, torch.arange(count, device=device)
        self._gain = torch.full((count,), -torch.inf, device=device, dtype=images.dtype)
        self._harm = torch.full((count,), -1.0, device=device)
        self._broken = torch.zeros((), dtype=torch.bool, device=device)
        self._seen: list[tuple[Tensor, Tensor]] = []
        self.judged = self._gain
        self._low = torch.is_autocast_enabled(device.type)

    def climb(self, loss: Loss | None) -> None:
        """From now on climb this loss, or with None the objective itself."""
        self.goal = self.judge if loss is None else loss(self.model, self.original, self.judge)
        self.comparable = loss is None or loss.comparable

    def __len__(self) -> int:
        """How many images are still attacked."""
        return len(self.original)

    @property
    def harm(self) -> Tensor:
        """The harm of the best image so far, for those still attacked [n]; -1 before anything was shown."""
        return self._harm

    def look(self, images: Tensor, goal: Objective | None = None) -> Tensor:
        """The gain [n] of `images`, without a graph: `goal`'s if one is given, the climbed one's otherwise."""
        climbed = self.goal if goal is None else goal
        gains = []
        with torch.no_grad():
            for _ in range(self.samples):
                outputs = self.model(images)
                own = self._note(outputs)
                gains.append(own if climbed is self.judge else climbed.gain(outputs))
        self._keep(images)
        return torch.stack(gains).mean(0)

    def gradient(
        self,
        images: Tensor,
        goal: Objective | None = None,
        adjust: Callable[[Tensor, Tensor], Tensor] = lambda gain, images: gain,
    ) -> tuple[Tensor, Tensor]:
        """The gain [n] and its gradient in `images`, averaged over `samples` calls (EOT, Athalye et al., 2018).

        `adjust(gain, images)` may change the gain that is differentiated. Entries that are not finite count as 0.
        Raises ValueError where the model gives no gradient.
        """
        climbed = self.goal if goal is None else goal
        leaf = images.detach().requires_grad_()
        gains: list[Tensor] = []
        total: Tensor | float = 0.0
        for _ in range(self.samples):
            outputs = self.model(leaf)
            wide = _wide(outputs)
            if climbed is not self.judge:  # asked first: a task names what is wrong with a target
                self._note(wide.detach())
            gain = climbed.gain(wide)
            if climbed is self.judge:
                self._note(wide.detach(), gain.detach())
            way = None if wide is outputs else (wide, outputs)
            del wide, outputs  # memory is scarcest on the way back
            gradient = _back(adjust(gain, leaf), leaf, way)
            total = gradient if self.samples == 1 else total + gradient
            gains.append(gain.detach())
        self._keep(images)
        mean = torch.as_tensor(total) / self.samples if self.samples > 1 else torch.as_tensor(total)
        return torch.stack(gains).mean(0), torch.nan_to_num(mean, nan=0.0, posinf=0.0, neginf=0.0)

    def drop(self, least: float = 1 / 8) -> Tensor | None:
        """Which of the images to go on with, as an index; None for all of them. Costs one synchronisation if judged.

        What is done goes once it is a share `least` of the batch: a few are not worth a copy of all.
        """
        if not self.judge.by_harm or len(self) == 0:
            return None
        kept = (self._harm < 1).nonzero()[:, 0]
        gone = len(self) - len(kept)
        if gone == 0 or gone < least * len(self):
            return None
        if self._low:
            self._confirm((self._harm >= 1).nonzero()[:, 0])
            kept = (self._harm < 1).nonzero()[:, 0]
        self._found = self._best.clone() if self._found is None else self._store()
        judge = self.judge.at(kept)
        self.goal = judge if self.goal is self.judge else self.goal.at(kept)
        self.original, self.judge = self.original[kept], judge
        self._best, self._place, self._gain, self._harm = (
            one[kept] for one in (self._best, self._place, self._gain, self._harm)
        )
        return kept

    def result(self) -> Tensor:
        """Per image the best one shown, the original if none was. ValueError where the model gave NaN."""
        if self._low:
            self._confirm(torch.arange(len(self), device=self.original.device))
        found = self._store()
        if bool(self._broken):
            raise ValueError("outputs: expected finite values, got NaN or infinity: look at the model and its precision")
        return found

    def _store(self) -> Tensor:
        """The best of all images, those that were dropped included."""
        if self._found is None:
            return self._best
        self._found[self._place] = self._best
        return self._found

    def _note(self, outputs: Tensor, known: Tensor | None = None) -> Tensor:
        """Remember what one call says of the images now shown, until `_keep`; the objective's gain, if it is not `known`."""
        with torch.no_grad():
            own = self.judge.gain(outputs) if known is None else known
            harm = self.judge.harm(outputs) if self.judge.by_harm else torch.zeros_like(self._harm)
        self._broken = self._broken | ~own.isfinite().all()
        self._seen.append((own, harm))
        return own

    def _keep(self, images: Tensor) -> None:
        """Keep each of `images` that is better than the best so far; NaN is not."""
        gain, harm = (torch.stack(values).mean(0) for values in zip(*self._seen, strict=True))
        self._seen, self.judged = [], gain
        better = (harm > self._harm) | ((harm == self._harm) & (gain > self._gain))
        if not self._low:  # what has nothing left to lose stays, whether or not it is dropped now: batch mates decide on that
            better &= self._harm < 1
        self._best = torch.where(per_image(better, images), images.detach(), self._best)
        self._gain, self._harm = torch.where(better, gain.to(self._gain), self._gain), torch.where(better, harm, self._harm)

    def _confirm(self, index: Tensor) -> None:
        """Score the best of some images again in full precision; where that is no better than the original, it goes."""
        if len(index) == 0:
            return
        judge, scores = self.judge.at(index), []
        with torch.no_grad(), torch.autocast(self.original.device.type, enabled=False):
            for images in (self.original[index], self._best[index]):
                outputs = self.model(images)
                scores.append((judge.gain(outputs), judge.harm(outputs) if judge.by_harm else torch.zeros_like(index).float()))
        (gain, harm), (better_gain, better_harm) = scores
        kept = (better_harm > harm) | ((better_harm == harm) & (better_gain > gain))
        self._best = self._best.index_copy(
            0, index, torch.where(per_image(kept, self.original), self._best[index], self.original[index])
        )
        self._gain = self._gain.index_copy(0, index, torch.where(kept, better_gain, gain).to(self._gain))
        self._harm = self._harm.index_copy(0, index, torch.where(kept, better_harm, harm))


def ascent(model: Model, images: Tensor, objective: Objective, samples: int = 1) -> tuple[Tensor, Tensor]:
    """The gain [n] and its gradient in the images, averaged over `samples` calls; ValueError without a gradient."""
    return Search(model, images, objective, samples=samples).gradient(images)


def raw_gradient(model: Model, images: Tensor, objective: Objective) -> Tensor:
    """The gradient of the objective's gain in the images as it comes, NaN included; ValueError without one."""
    leaf = images.detach().requires_grad_()
    outputs = model(leaf)
    wide = _wide(outputs)
    return _back(objective.gain(wide), leaf, None if wide is outputs else (wide, outputs))


def _wide(outputs: Tensor) -> Tensor:
    """What gains are taken of: the outputs themselves in full precision, a float32 leaf in their place otherwise."""
    faint = outputs.dtype.itemsize < 4 or torch.is_autocast_enabled(outputs.device.type)
    if not faint:
        return outputs
    return (outputs if outputs.dtype.itemsize > 4 else outputs.float()).detach().requires_grad_()


def _back(value: Tensor, leaf: Tensor, way: tuple[Tensor, Tensor] | None) -> Tensor:
    """The gradient of `value` [n] in the leaf and in nothing else.

    In low precision `way` is (what `value` was taken of, the outputs): the slope at the outputs goes back at a size of about
    1, for the gradient of a mean over pixels would vanish on the way. The factors are powers of 2.
    """
    if not (value.requires_grad and (way is None or way[1].requires_grad)):
        raise ValueError(_NO_GRADIENT)
    if way is None:
        (found,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    else:
        slope, direct = torch.autograd.grad(value.sum(), (way[0], leaf), allow_unused=True)
        exponent = torch.frexp(slope.abs().flatten(1).amax(1)).exponent.clamp(-100, 100).to(slope)
        scaled = (slope * per_image(torch.exp2(-exponent), slope)).to(way[1])
        (found,) = torch.autograd.grad(way[1], leaf, scaled, allow_unused=True)
        if found is not None:
            found = found * per_image(torch.exp2(exponent), found).to(found)
            found = found if direct is None else found + direct
    if found is None:
        raise ValueError(_NO_GRADIENT)
    gradient: Tensor = found
    return gradient
