"""Features: what a network sees in images, and the Gaussian that a set of images makes of it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import whole
from .images import check_images
from .metrics import frechet_of_moments
from .modes import evaluating, generator
from .weights import fingerprint

Batches = Tensor | Iterable[Any]


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean [D] and unbiased covariance [D, D] (float64, CPU) of the features of `count` images; `key` says whose features."""

    count: int
    mean: Tensor
    covariance: Tensor
    key: str

    def distance(self, other: "Gaussian") -> float:
        """The squared Fréchet distance; ValueError between features of different networks, weights or modules."""
        if self.key != other.key:
            raise ValueError(f"expected features of the same network, got {self.key} and {other.key}: measure both again")
        return frechet_of_moments(self.mean, self.covariance, other.mean, other.covariance)


class Features:
    """Features [N, D] of a task network: the average over all positions of what `module` gives (after Yu et al., 2024).

    Taken by a hook during a real forward of the whole `model`, normalisation included, so that functions between modules
    (`F.relu`, `F.max_pool2d`) act; an in-place operation after the module does not reach it. `module`: a dotted path of
    `model.named_modules()`, run once a forward. UAD-RS takes the last pooling of classifiers and the deepest encoder block
    of segmenters; it is not guessed here: `layers` lists what there is. Outputs [N, D] stay, [N, T, D] are averaged over
    tokens. `dims`: project onto that many fixed random directions (our choice, not the paper's), for few images.
    """

    def __init__(self, model: nn.Module, module: str, dims: int | None = None) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        known = dict(model.named_modules())
        if module not in known:
            near = get_close_matches(module, known, n=4, cutoff=0.4) or list(known)[-4:]
            raise ValueError(f"module: expected a path of named_modules(), got {module!r}: is it one of {near}?")
        self.model, self.module, self.dims = model, module, None if dims is None else whole(dims, "dims")

    def __call__(self, images: Tensor) -> Tensor:
        """The features [N, D]; gradients flow. ValueError unless the module runs exactly once."""
        found: list[Tensor] = []
        part = self.model.get_submodule(self.module)
        handle = part.register_forward_hook(lambda module, inputs, output: found.append(_pooled(output)))
        try:
            self.model(images)
        finally:
            handle.remove()
        if len(found) != 1 or len(found[0]) != len(images):
            seen = [list(f.shape) for f in found]
            raise ValueError(f"module: expected {self.module!r} to run once on {len(images)} images, got features {seen}")
        rows = found[0]
        if self.dims is None or self.dims >= rows.shape[1]:
            return rows
        return rows @ _directions(rows.shape[1], self.dims).to(rows)

    @property
    def key(self) -> str:
        """What the features depend on: the network's settings and weights, the module, the projection."""
        settings = hashlib.sha256(repr(self.model).encode()).hexdigest()[:12]
        return f"{self.module} of {type(self.model).__name__} {settings} {fingerprint(self.model)[:12]} dims {self.dims}"

    def statistics(self, batches: Batches, through: Callable[[Tensor], Tensor] | None = None) -> Gaussian:
        """Mean and covariance over all images, each sent `through` a stage first if there is one; one pass, nothing kept.

        `batches`: images [N, C, H, W], or an iterable of such or of (images, anything); the second entry is never touched.
        """
        count, mean, scatter = 0, torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
        with torch.no_grad(), evaluating(self.model, through):
            for images in images_of(batches, through):
                rows = self(images).double().cpu()
                if not bool(rows.isfinite().all()):
                    bad = count + int((~rows.isfinite()).any(1).nonzero()[0])
                    raise ValueError(
                        f"{self.module}: expected finite features, got NaN or infinity for image {bad}: look at the model"
                    )
                if count == 0:
                    mean, scatter = rows.new_zeros(rows.shape[1]), rows.new_zeros(rows.shape[1], rows.shape[1])
                gap, middle = rows.mean(0) - mean, rows - rows.mean(0)
                share = len(rows) / (count + len(rows))
                scatter += middle.T @ middle + count * share * torch.outer(gap, gap)  # Chan, Golub and LeVeque (1983)
                mean, count = mean + share * gap, count + len(rows)
        if count < 2:
            raise ValueError(f"batches: expected at least 2 images, got {count}")
        return Gaussian(count, mean, scatter / (count - 1), self.key)

    def layers(self, images: Tensor) -> dict[str, tuple[int, ...]]:
        """The modules that run exactly once on `images` and give a tensor, in running order, with the shapes they give."""
        seen: list[tuple[str, tuple[int, ...]]] = []

        def note(name: str) -> Callable[..., None]:
            return lambda module, inputs, output: seen.append((name, tuple(getattr(output, "shape", ()))))

        handles = [part.register_forward_hook(note(name)) for name, part in self.model.named_modules() if name]
        try:
            with torch.no_grad(), evaluating(self.model):
                self.model(images)
        finally:
            for handle in handles:
                handle.remove()
        names = [name for name, _ in seen]
        return {name: shape for name, shape in seen if shape and names.count(name) == 1}


def images_of(batches: Batches, through: Callable[[Tensor], Tensor] | None = None) -> Iterator[Tensor]:
    """The images of each batch, checked, sent `through` a stage if there is one. Of a pair, only the first entry is looked at.

    ValueError for an empty batch, for images that break the contract, and for ones that the stage answers with NaN or infinity.
    """
    shown = 0
    for number, batch in enumerate(torch.split(batches, 32) if isinstance(batches, Tensor) else batches):
        images = batch[0] if isinstance(batch, list | tuple) and batch else batch
        _check(images, number, shown)
        if len(images) == 0:
            raise ValueError(f"batches: expected at least one image a batch, got none in batch {number}: leave it out")
        if through is not None:
            images = through(images)
            if not bool(images.isfinite().all()):
                bad = shown + int((~images.isfinite()).flatten(1).any(1).nonzero()[0])
                raise ValueError(
                    f"expected finite images from the stage, got NaN or infinity for image {bad}: look at the stage"
                )
        yield images
        shown += len(images)


def _check(images: Any, batch: int, shown: int) -> None:
    """The image contract; the error says in which batch, and which image of all."""
    try:
        check_images(images, "batches")
    except ValueError as error:
        bad = [k for k in range(len(images)) if images.dim() == 4 and not _fits(images[k : k + 1])]
        raise ValueError(f"{error} ({f'image {shown + bad[0]}, ' if bad else ''}batch {batch})") from error
    except TypeError as error:
        raise TypeError(f"{error} (batch {batch})") from error


def _fits(image: Tensor) -> bool:
    try:
        check_images(image)
    except ValueError:
        return False
    return True


def _pooled(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"module: expected one that gives a tensor, got {type(output).__name__}: take a part of it")
    wide: Tensor = output if output.dtype.itemsize > 4 else output.float()
    if wide.dim() < 2:
        raise ValueError(f"module: expected an output [N, ...] with features, got shape {list(wide.shape)}")
    if wide.dim() == 2:
        return wide.clone()
    return wide.mean(1) if wide.dim() == 3 else wide.flatten(2).mean(2)


@lru_cache(maxsize=8)
def _directions(width: int, dims: int) -> Tensor:
    """Orthonormal columns [width, dims], the same for ever."""
    columns: Tensor = torch.linalg.qr(torch.randn(width, dims, generator=generator(0), dtype=torch.float64))[0]
    return columns
