"""FGSM, I-FGSM, C&W, TPGD and Jitter as UAE-RS has them (Xu and Ghamisi, 2022), for UAD-RS (Yu et al., 2024)."""

from collections.abc import Callable
from dataclasses import replace as changed

import torch
from torch import Tensor

from ..attack import Attack, Model
from ..losses import Divergence, Margin
from ..modes import generator
from ..search import Search
from ..task import Objective
from ..threat import Threat, as_threat
from ._uaers import PUBLISHED, STEPS, Walk, check, climb

TRADES_START = 0.001


class UaeRsFGSM(Attack, name="uae_rs_fgsm"):
    """FGSM of UAE-RS (Xu and Ghamisi, 2022): one step whose largest entry is the threat's size; most pixels move less.

    The family: gradient over its largest entry, not its sign; in ImageNet-normalised space, eps 1 and step 1; from the clean
    image; rounded to 8 bits after each step. There the largest entry is the batch's (of one image), here each image's own.
    Rounding may leave their ball, not ours. Their last image counts, here the best one. Their segmentation form works at
    0.9 of the size: this one does not. For [0, 1] hand over `Linf(8 / 255)` and `bits=None`.
    """

    def __init__(self, threat: Threat = PUBLISHED, bits: int | None = 8) -> None:
        check(1, None, bits)
        self.threat, self.bits = as_threat(threat), bits

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """One step of the objective's own gain."""
        return climb(Search(model, images, objective), self.threat, 1, None, self.bits)


class UaeRsIFGSM(Attack, name="uae_rs_ifgsm"):
    """I-FGSM of UAE-RS (Xu and Ghamisi, 2022): five steps of `UaeRsFGSM`. `step` None: the threat's size, as published."""

    def __init__(self, threat: Threat = PUBLISHED, steps: int = STEPS, step: float | None = None, bits: int | None = 8) -> None:
        check(steps, step, bits)
        self.threat, self.steps, self.step, self.bits = as_threat(threat), steps, step, bits

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Climb the objective's own gain."""
        return climb(Search(model, images, objective), self.threat, self.steps, self.step, self.bits)


class UaeRsCW(Attack, name="uae_rs_cw"):
    """C&W of UAE-RS (Xu and Ghamisi, 2022): `UaeRsIFGSM` on the margin of Carlini and Wagner (2017), in a fixed ball.

    Theirs adds a constant 50, which has no gradient, and multiplies the true score by 0 where it has to be left out, which
    is wrong once all scores are negative: here it is left out.
    """

    answers = ("label", "map")

    def __init__(self, threat: Threat = PUBLISHED, steps: int = STEPS, step: float | None = None, bits: int | None = 8) -> None:
        check(steps, step, bits)
        self.threat, self.steps, self.step, self.bits = as_threat(threat), steps, step, bits

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Climb the margin."""
        return climb(Search(model, images, objective, Margin()), self.threat, self.steps, self.step, self.bits)


class UaeRsTPGD(Attack, name="uae_rs_tpgd"):
    """TPGD of UAE-RS (Xu and Ghamisi, 2022): `UaeRsIFGSM` on KL(clean || attacked) of TRADES (Zhang et al., 2019).

    No label is needed. The gradient at the clean image is 0 but for rounding, which theirs follows; here the first one is
    taken 0.001 N(0, 1) off, as TRADES does: the same noise for every image with a `seed`.
    """

    answers = ("label", "map")

    def __init__(
        self,
        threat: Threat = PUBLISHED,
        steps: int = STEPS,
        step: float | None = None,
        bits: int | None = 8,
        seed: int | None = 0,
    ) -> None:
        check(steps, step, bits)
        self.threat, self.steps, self.step, self.bits, self.seed = as_threat(threat), steps, step, bits, seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Climb the divergence from the clean answer."""
        search = Search(model, images, objective, Divergence())
        search.look(images)
        noise = _normal(images, self.seed)
        walk = Walk(search, self.threat, self.step, self.bits)
        walk.images = self.threat.project(images + TRADES_START * noise, images)
        for _ in range(self.steps):
            walk.move(search.gradient(walk.images)[1])
            if walk.drop() is not None and not len(search):
                break
        return walk.end()


class UaeRsJitter(Attack, name="uae_rs_jitter"):
    """Jitter of UAE-RS (Xu and Ghamisi, 2022; loss of Schwinn et al., 2021): squared error of noisy, rescaled softmax.

    Raised is the mean over classes of (softmax(`scale` z / max|z|) + `noise` N(0, 1) - one-hot)^2; where an answer is wrong
    already, over the size of the change so far, so that this shrinks. The size is that of the whole image, for label maps
    too (theirs: per pixel, as in `Jitter`). With a `seed` each image gets the same noise, a fresh one each step. For a
    targeted goal the negative, over nothing: our choice.
    """

    answers = ("label", "map")

    def __init__(
        self,
        threat: Threat = PUBLISHED,
        steps: int = STEPS,
        step: float | None = None,
        bits: int | None = 8,
        scale: float = 10.0,
        noise: float = 0.1,
        seed: int | None = 0,
    ) -> None:
        check(steps, step, bits)
        if not (scale > 0 and noise >= 0):
            raise ValueError(f"scale, noise: expected a scale > 0 and noise >= 0, got {scale} and {noise}")
        self.threat, self.steps, self.step, self.bits = as_threat(threat), steps, step, bits
        self.scale, self.noise, self.seed = float(scale), float(noise), seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Climb the jittered error, which needs to know the change so far: the image last asked about is noted."""
        asked = [images]

        def noting(found: Tensor) -> Tensor:
            asked[0] = found
            return model(found)

        search = Search(noting, images, objective)
        search.goal = changed(objective, measure=self._measure(search, asked, objective), context=())
        return climb(search, self.threat, self.steps, self.step, self.bits)

    def _measure(self, search: Search, asked: list[Tensor], objective: Objective) -> Callable[..., Tensor]:
        classes, own = objective.reading, generator(self.seed)
        sign = -1.0 if objective.towards else 1.0

        def measure(outputs: Tensor, target: Tensor) -> Tensor:
            logits, labels, valid = classes.read(outputs, target)
            finite = logits.isfinite()  # a class may be masked out with -inf
            known = logits.where(finite, 0.0)
            largest = known.abs().amax(1, keepdim=True)
            scaled = self.scale * known / torch.where(largest > 0, largest, 1.0)
            shares = scaled.masked_fill(~finite, -torch.inf).softmax(1)
            one = shares[:1] if self.seed is not None else shares
            shares = shares + self.noise * torch.randn(one.shape, generator=own).to(shares)
            truth = torch.zeros_like(shares).scatter(1, labels[:, None], 1.0)
            error = (shares - truth).square().mean(1)
            size = self.threat.size(asked[0] - search.original)[:, None].to(error)
            wrong = (logits.argmax(1) != labels) & (size > 0) & (sign > 0)
            error = torch.where(wrong, error / torch.where(size > 0, size, 1.0), error)
            return sign * (error * valid).sum(1) / valid.sum(1).clamp(min=1)

        return measure


def _normal(images: Tensor, seed: int | None) -> Tensor:
    """Gaussian noise shaped like `images`; with a seed the same for each of them."""
    one = images if seed is None else images[:1]
    return torch.randn(one.shape, generator=generator(seed)).to(images)
