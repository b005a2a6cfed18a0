"""Mixup- and Mixcut-Attack of UAE-RS (Xu and Ghamisi, 2022): towards the features of one fixed, mixed image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..attack import Attack, Model
from ..images import check_images, per_image
from ..modes import evaluating
from ..search import Search
from ..task import Objective
from ..threat import Threat, as_threat
from ._uaers import STEPS, TINY, Walk, check

IMAGENET_MEAN = (0.485, 0.456, 0.406)
SCALES = 5  # the image, and its difference to the mean over 2, 4, 8 and 16
WEIGHT = 1e-3  # of the objective beside the features


class Samples(nn.Module):
    """Images [K, C, H, W] in [0, 1] to be mixed, one of each class, say; a module, so that an attack can hold them."""

    images: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        check_images(images, "samples")
        if len(images) == 0:
            raise ValueError("samples: expected at least one image, got none")
        self.register_buffer("images", images.detach().clone())


def pixel_mean(images: Tensor) -> Tensor:
    """The mean image [C, H, W] of images [K, C, H, W]: what Mixup-Attack mixes."""
    return images.mean(0)


def strips(images: Tensor) -> Tensor:
    """Horizontal strips stacked [C, H, W], the k-th from the k-th of images [K, C, H, W]: what Mixcut-Attack mixes.

    Heights differ by one row at most; images beyond the number of rows are left out.
    """
    count, height = len(images), images.shape[2]
    edges = [round(k * height / count) for k in range(count + 1)]
    return torch.cat([image[:, top:end] for image, top, end in zip(images, edges[:-1], edges[1:], strict=True)], dim=1)


class _Mix(Attack, nn.Module):  # type: ignore[misc]  # both have a __call__; an Attack's counts
    """What the two share; they differ in how the samples are mixed."""

    def _store(self, threat: Threat, features: nn.Module, samples: Samples, steps: int, bits: int | None) -> None:
        for what, value, kind in (("features", features, nn.Module), ("samples", samples, Samples)):
            if not isinstance(value, kind):
                raise TypeError(
                    f"{what}: expected a {kind.__name__}, got {type(value).__name__}: hand over the surrogate's first layers, "
                    "and rr.attacks.Samples(images)"
                )
        check(steps, None, bits)
        self.threat, self.features, self.samples = as_threat(threat), features, samples
        self.steps, self.bits = steps, bits

    def _climb(self, model: Model, images: Tensor, objective: Objective, mixed: Tensor, mean: Sequence[float]) -> Tensor:
        centre = torch.tensor(list(mean)).to(images).view(1, -1, 1, 1)
        search = Search(model, images, objective)
        walk, momentum = Walk(search, self.threat, None, self.bits), torch.zeros_like(images)
        with evaluating(self.features):
            with torch.no_grad():
                wanted = self.features(mixed[None].to(images))

            def both(gain: Tensor, found: Tensor) -> Tensor:
                """The published sum over scales; `gain` is the objective's at the first."""
                total = WEIGHT * gain
                for k in range(SCALES):
                    smaller = centre + (found - centre) / 2**k
                    total = total + _inner(self.features(smaller), wanted)
                    if k:
                        total = total + WEIGHT * search.judge.gain(model(smaller))
                return total

            for _ in range(self.steps):
                _, gradient = search.gradient(walk.images, adjust=both)
                norm = gradient.abs().flatten(1).sum(1).clamp(min=TINY)
                momentum = momentum + gradient / per_image(norm, gradient)
                walk.move(momentum)
                if (kept := walk.drop()) is not None:
                    momentum = momentum[kept]
                if not len(search):
                    break
        return walk.end()


class UaeRsMixup(_Mix, name="uae_rs_mixup"):
    """Mixup-Attack (Xu and Ghamisi, 2022): towards the shallow features of the pixel mean of `samples`; made to transfer.

    Hand it a surrogate as the model and its first layers, from [0, 1] images to one feature map, as `features`. Raised is
    1e-3 of the objective minus the "KL divergence" of raw features, which is none: its gradient is the mixed feature over
    its size, so an inner product is raised. Summed over five scales (image minus `mean`, halved each time; theirs for labels
    alone, here for maps too), with momentum 1 on gradients of L1 length 1. For the rest see `UaeRsFGSM`. A published mixed
    image: `Samples(that[None])`. Images of other sizes: the mixed feature is resized.
    """

    def __init__(
        self,
        threat: Threat,
        features: nn.Module,
        samples: Samples,
        steps: int = STEPS,
        bits: int | None = 8,
        mean: Sequence[float] = IMAGENET_MEAN,
    ) -> None:
        super().__init__()
        self._store(threat, features, samples, steps, bits)
        self.mean = [float(value) for value in mean]

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Climb towards the mean image's features."""
        return self._climb(model, images, objective, pixel_mean(self.samples.images), self.mean)


class UaeRsMixcut(_Mix, name="uae_rs_mixcut"):
    """Mixcut-Attack (Xu and Ghamisi, 2022): as `UaeRsMixup`, but strips of the `samples`, stacked, are the mixed image.

    Ten samples for the paper's UCM.
    """

    def __init__(
        self,
        threat: Threat,
        features: nn.Module,
        samples: Samples,
        steps: int = STEPS,
        bits: int | None = 8,
        mean: Sequence[float] = IMAGENET_MEAN,
    ) -> None:
        super().__init__()
        self._store(threat, features, samples, steps, bits)
        self.mean = [float(value) for value in mean]

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Climb towards the stacked strips' features."""
        return self._climb(model, images, objective, strips(self.samples.images), self.mean)


def _inner(found: Tensor, wanted: Tensor) -> Tensor:
    """The mean product of features with the wanted ones [N]: minus `KLDivLoss` of raw features, less a constant."""
    if found.dim() == 4 and found.shape[2:] != wanted.shape[2:]:
        wanted = F.interpolate(wanted, found.shape[2:], mode="bilinear", align_corners=False)
    return (found * wanted).flatten(1).mean(1)
