"""Look at a module without changing it: evaluation mode and a seed for one block, everything put back after."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.data import get_worker_info


@contextmanager
def evaluating(*modules: object) -> Iterator[None]:
    """Every sub-module of `modules` in evaluation mode, each in its own mode again at the end, also after an error.

    A bound method (`pipeline.predict`) stands for its module; other arguments (a plain function, say) are left alone.
    """
    owners = [getattr(module, "__self__", module) for module in modules]
    parts = [part for owner in owners if isinstance(owner, nn.Module) for part in owner.modules()]
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """PyTorch's generators (CPU and every CUDA device in use) seeded for the block; as they were after it.

    None leaves them as they are.
    """
    if seed is None:
        yield
        return
    # a forked worker may not touch CUDA: there it counts as not initialised, and starting it raises
    beside = get_worker_info() is not None and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() and not beside else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield


def recorded(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters and buffers that were made under inference_mode, by name: those themselves keep no graph."""
    named = (*module.named_parameters(), *module.named_buffers())
    with torch.inference_mode(False):
        return {name: tensor.detach().clone() for name, tensor in named if tensor.is_inference()}


def generator(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of one's own; with None its seed is drawn from PyTorch's global one, which `seeded` controls."""
    own = torch.Generator(device)
    value = seed if seed is not None else int(torch.randint(0, 2**62, ()).item())
    return own.manual_seed(value)
