"""Several processes at one certification: each takes its share of the images, and at the end all of them know everything."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..files import digest
from ..journal import Journal

if TYPE_CHECKING:
    from accelerate import PartialState

Tally = dict[str, Tensor]
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""
_alone: ContextVar[bool] = ContextVar("alone", default=False)
_WHOLE = "hand over the whole data in one order, neither shuffled nor from accelerator.prepare"
_ADVICE = {"images": _WHOLE, "batches": _WHOLE, "model": "load the same weights, or seed before it is built"}


def place() -> tuple[int, int]:
    """(which process this is, how many there are), of `accelerate launch` or `torchrun`; (0, 1) elsewhere and in `alone`."""
    if _alone.get() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return 0, 1
    state = _state()
    return int(state.process_index), int(state.num_processes)


@contextmanager
def alone() -> Iterator[None]:
    """For the block this process shares nothing: what is done in it is its own share."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def agree(held: Mapping[str, object]) -> None:
    """ValueError in all processes, unless they hold the same: what they count in shares is to be of one thing."""
    rank, world = place()
    if world == 1:
        return
    text = json.dumps({name: json.dumps(value, sort_keys=True) for name, value in held.items()})
    own = {rank: {"held": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}}
    told = [json.loads(tally["held"].numpy().tobytes()) for tally in gathered(own, world)]
    for name in dict.fromkeys(name for one in told for name in one):
        if len(found := sorted({str(one.get(name)) for one in told})) > 1:
            raise ValueError(
                f"{name}: expected the same in every process, as they share the work, got {' and '.join(found)}: "
                f"{_ADVICE.get(name, 'give all of them the same settings')}"
            )


class SameBatches:
    """That the processes go through the same batches: asked at the first, before the work, and at the end of all.

    Between the two nobody waits for anybody.
    """

    def __init__(self) -> None:
        self._seen = ""

    def add(self, images: Tensor, target: Tensor) -> None:
        """One more batch."""
        if place()[1] > 1:
            first, self._seen = not self._seen, hashlib.sha256(f"{self._seen} {digest(images, target)}".encode()).hexdigest()
            if first:
                self.ask()

    def ask(self) -> None:
        """ValueError in all processes where they saw others."""
        agree({"batches": self._seen})


def gathered(own: Mapping[int, Tally], count: int) -> Iterator[Tally]:
    """Number 0 to `count` - 1 in order, in every process: number k is told by process k modulo their number."""
    _, world = place()
    for number in range(count):
        yield own[number] if world == 1 else _told(own.get(number), number % world)


def tallies(
    images: Tensor,
    journal: Journal | None,
    count: Callable[[Tensor, int], Tally],
    progress: Progress | None,
    about: Mapping[str, object],
) -> Iterator[Tally]:
    """What `count` finds for each image and its number, by all processes together; what `journal` keeps is not done again.

    `about`: model, noise and all that counts: ValueError where it or the images are not the same in all processes.
    """
    rank, world = place()
    if world > 1:
        agree({"images": [len(images), digest(images)], **about})
    own: dict[int, Tally] = {}
    for number in range(rank, len(images), world):
        image = images[number]
        done = None if journal is None else journal.read(number, digest(image))
        if done is None:
            done = {name: tensor.cpu() for name, tensor in count(image, number).items()}
            if journal is not None:
                journal.write(number, digest(image), done)
        if progress is not None and rank == 0:
            progress(min(number + world, len(images)), len(images))
        if world == 1:  # at once, so that the tallies of many images are not held together
            yield done
        own[number] = done if world > 1 else {}
    if world > 1:
        yield from gathered(own, len(images))


def _told(own: Tally | None, owner: int) -> Tally:
    """A tally, from the process that has it to the others, as bytes of safetensors."""
    from safetensors.torch import load, save

    device = _state().device
    data = b"" if own is None else save({name: tensor.contiguous() for name, tensor in own.items()})
    size = torch.tensor([len(data)], device=device)
    distributed: Any = torch.distributed
    distributed.broadcast(size, owner)
    payload = torch.zeros(int(size), dtype=torch.uint8, device=device)
    if own is not None:
        payload.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    distributed.broadcast(payload, owner)
    return own if own is not None else dict(load(payload.cpu().numpy().tobytes()))


def _state() -> "PartialState":
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError("several processes need accelerate: pip install 'robustrestore[train]'") from error
    forced = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return PartialState(cpu=forced or not (torch.cuda.is_available() or torch.xpu.is_available()))
