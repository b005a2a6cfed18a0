"""The answers of a model to many noisy copies of one image: chunk by chunk, in memory that does not grow with their number."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..identity import of_callable
from ..images import check_images, trusted
from ..journal import Journal
from ..modes import evaluating, generator, seeded
from ..reach import modules_in, unseen
from ..runs import spawn
from .bounds import check_counts
from .noise import Noise

Model = Callable[[Tensor], Tensor]
BLOCK_VALUES, BLOCK_IMAGES = 2**19, 64  # noise is drawn in blocks of a size that depends on the image alone
LARGEST = 4096
_bound: ContextVar[tuple[Model, str] | None] = ContextVar("bound", default=None)


class ChunkSize:
    """How many noisy images go through the model at once: as given, or grown from a few while each doubling pays.

    The first size to be no more than 5 % faster (our choice) ends the search, and the one before it stays; it ends at
    2^21 values of input on a CPU, where nothing says that memory is short. What does not fit on a GPU is halved for good.
    Counts do not depend on it, unless the model's own rounding depends on the batch.
    """

    def __init__(self, given: int | None = None) -> None:
        if given is not None:
            check_counts(chunk=given)
        self.size, self.growing, self._given = given or 0, given is None, given is not None
        self._best, self._now, self._seen, self._most = 0.0, 0.0, 0, LARGEST
        self._shape: tuple[int, ...] | None = None

    def start(self, image: Tensor) -> None:
        """Pick a first size for an image like this, unless one was given or found for images of this shape."""
        if self._given or tuple(image.shape) == self._shape:
            return
        values, self._shape = image.numel(), tuple(image.shape)
        self.size, self.growing = max(1, min(32, 2**19 // values)), True
        self._best, self._now, self._seen = 0.0, 0.0, 0
        self._most = LARGEST if image.is_cuda else max(1, 2**21 // values)

    def note(self, count: int, seconds: float) -> None:
        """A chunk of `count` images took that long: two at a size decide, the better one counts."""
        if not self.growing or count < self.size or seconds <= 0:
            return
        self._now, self._seen = max(self._now, count / seconds), self._seen + 1
        if self._seen < 2:
            return
        pays = self._now > 1.05 * self._best
        more = pays and self.size * 2 <= self._most
        self.size = self.size * 2 if more else self.size if pays else max(1, self.size // 2)
        self.growing = more
        self._best, self._now, self._seen = max(self._best, self._now), 0.0, 0

    def halve(self) -> None:
        """The device is full."""
        self.size, self.growing = max(1, self.size // 2), False


def draws(noise: Noise, image: Tensor, own: torch.Generator) -> Iterator[Tensor]:
    """Blocks of noisy copies of `image` [C, H, W], without end, or all copies of a noise that has finitely many.

    The size of a block depends on the image's alone, so the copies are the same however they are cut into chunks.
    """
    size = max(1, min(BLOCK_IMAGES, BLOCK_VALUES // image.numel()))
    start = 0
    while noise.count is None or start < noise.count:
        images = image.expand(size if noise.count is None else min(size, noise.count - start), *image.shape)
        if noise.count is None:
            yield noise.applied(images, noise.sample_like(images, own))
        else:
            yield noise.applied(images, noise.nth(images, torch.arange(start, start + len(images))))
        start += len(images)


def answers(model: Model, blocks: Iterator[Tensor], count: int, size: ChunkSize) -> Iterator[Tensor]:
    """The model's outputs for the next `count` noisy images, a chunk at a time; the rest of the last block is dropped."""
    held: Tensor | None = None
    done = 0
    while done < count:
        want = min(size.size, count - done)
        parts, have = ([], 0) if held is None else ([held], len(held))
        while have < want:
            parts.append(next(blocks))
            have += len(parts[-1])
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        chunk, held = joined[:want], joined[want:] if have > want else None
        started = _clock(chunk, size)
        yield from _fitting(model, chunk, size)
        size.note(want, _clock(chunk, size) - started)
        done += want


def _clock(images: Tensor, size: ChunkSize) -> float:
    if size.growing and images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter()


def _fitting(model: Model, chunk: Tensor, size: ChunkSize) -> Iterator[Tensor]:
    """The outputs for a chunk, in halves if the device has no room for it."""
    try:
        outputs: Tensor | None = model(chunk)
    except torch.cuda.OutOfMemoryError:
        if len(chunk) == 1:
            raise
        outputs = None
    except RuntimeError as error:
        error.add_note(f"images: the model was asked for {chunk.dtype} on {chunk.device}: they are to fit its weights")
        raise
    if outputs is not None:
        if not isinstance(outputs, Tensor) or len(outputs) != len(chunk):
            got = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(f"model: expected outputs for {len(chunk)} images, got {got}: choose one with rr.Adapted")
        yield outputs
        return
    size.halve()
    for half in chunk.chunk(2):
        yield from _fitting(model, half, size)


@contextmanager
def sampling(
    model: Model, noise: Noise, image: Tensor, size: ChunkSize, seed: int | None, run: str
) -> Iterator[Iterator[Tensor]]:
    """The blocks of noisy copies of an image, under one generator, with the model in evaluation mode and no graph.

    `seed` None draws one afresh; `run`: what these draws are for, so that no two runs share noise. A model that draws for
    itself (a stage with `seed=None`) does so from another seed; under a noise of finitely many draws it is refused. Modules
    that the model reaches through closures, globals or lists are set to evaluation mode too.
    """
    size.start(image)
    with ExitStack() as stack:
        stack.enter_context(evaluating(model, *modules_in(model)))
        stack.enter_context(torch.no_grad())
        stack.enter_context(trusted())  # noisy values lie outside [0, 1], and that is meant
        own = generator(None if seed is None else spawn(seed, f"noise {run}"), image.device)
        stack.enter_context(seeded(None if seed is None else spawn(seed, f"model {run}")))
        if noise.count is not None:
            stack.enter_context(_steady(model, next(draws(noise, image, own))[: size.size], size))
        yield draws(noise, image, own)


@contextmanager
def _steady(model: Model, chunk: Tensor, size: ChunkSize) -> Iterator[None]:
    """Raise where the model draws at random: the same chunk twice under other seeds, and no generator may move in the block."""
    states = _states(chunk)
    with seeded(1):
        first = torch.cat(list(_fitting(model, chunk, size)))
    with seeded(2):
        second = torch.cat(list(_fitting(model, chunk, size)))
    apart = not (torch.equal(first, second) or (chunk.is_cuda and torch.allclose(first, second, rtol=1e-4)))
    if not apart:
        yield
    if apart or any(not torch.equal(a, b) for a, b in zip(states, _states(chunk), strict=True)):
        raise ValueError(
            "model: expected a deterministic one under a noise of finitely many draws such as DSSN, whose certificate has no "
            "chance in it; got one that draws at random: give its stages a seed, or smooth it with SSN"
        )


def _states(chunk: Tensor) -> list[Tensor]:
    states = [torch.random.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(chunk.device)] if chunk.is_cuda else states


def check(model: Model, noise: Noise, images: Tensor) -> None:
    """Raise unless the images keep the contract and the noise's own conditions."""
    if not callable(model):
        raise TypeError(f"model: expected a module or a function of images, got {type(model).__name__}")
    if not isinstance(noise, Noise):
        raise TypeError(f"noise: expected a Noise such as certify.Gaussian(0.25), got {type(noise).__name__}")
    check_images(images)
    noise.check(images)


def fingerprint(model: Model) -> str:
    """What a certificate is bound to: type, code, settings, attributes and weights of the base model, as 16 digits.

    With all that the model reaches through closures, lists and globals of its file; inside `bound` the one taken there.
    """
    held = _bound.get()
    if held is not None and held[0] is model:
        return held[1]
    return hashlib.sha256(of_callable(model).encode()).hexdigest()[:16]


@contextmanager
def bound(model: Model) -> Iterator[str]:
    """One fingerprint for the block, taken before the run: a model may fill caches of its own as it is used."""
    token = _bound.set((model, fingerprint(model)))
    try:
        yield fingerprint(model)
    finally:
        _bound.reset(token)


def kept(folder: str | Path | None, model: Model, about: dict[str, Any]) -> Journal | None:
    """Where finished images are kept; ValueError where results could be another model's, whose difference nobody sees."""
    if folder is None:
        return None
    if hidden := unseen(model):
        raise ValueError(
            f"folder: expected a model that can be told from others, got one that acts through {hidden[0]}, which cannot be "
            "looked into: give its owner a method told_apart_by() -> str, or leave the folder out"
        )
    return Journal(Path(folder), about)
