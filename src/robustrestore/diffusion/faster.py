"""Denoisers that run another one faster: laid out for it, in low precision, compiled. `rr.optimise` puts them in place."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..replicas import former, is_replica, weights_of
from .denoiser import Denoiser
from .guidance import twice_differentiated

_SHARED = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class Faster(Denoiser):
    """A denoiser around another one that gives the same answers, up to what its docstring says. Plug-ins write `run`.

    Parameters, buffers and modules are those of `denoiser`, under the same names: a state dict of one loads into the other.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"denoiser: expected a Denoiser, got {type(denoiser).__name__}")
        for name in _SHARED:
            self.__dict__[name] = denoiser.__dict__[name]
        self.multiple = denoiser.multiple  # images are padded out here: compiled, the gradient of padding fails (torch 2.14)
        self.denoiser: Denoiser
        self.__dict__["denoiser"] = denoiser  # not a module of this one, or all names would change

    @abstractmethod
    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The estimate, by `plainly` or otherwise."""

    def plainly(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The denoiser's own estimate."""
        self.take_over_mode()
        estimate: Tensor = self._inner()(noisy, sigma)
        return estimate

    def _inner(self) -> Denoiser:
        """The denoiser with the tensors and modules of this one: a replica has others than what it is a replica of."""
        known = self.denoiser
        if torch.compiler.is_compiling() or not is_replica(self):
            return known
        made: Denoiser = object.__new__(type(known))
        vars(made).update({**vars(known), **{name: vars(self)[name] for name in _SHARED}, **former(self)})
        vars(made).update(training=self.training, _is_replica=True, _former_parameters=former(self))
        return made

    def take_over_mode(self) -> None:
        """The denoiser, which is no module of this one, in the mode that this one is in."""
        if self.denoiser.training != self.training:
            self.denoiser.training = self.training


class ChannelsLast(Faster, name="channels_last"):
    """Weights and images with their channels last in memory, as convolutions on most hardware prefer; equal up to rounding.

    The weights of the denoiser that it is handed are laid out anew in place, their values stay.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.to(memory_format=torch.channels_last)

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The estimate, its channels in their usual place again."""
        return self.plainly(noisy.contiguous(memory_format=torch.channels_last), sigma).contiguous()


class BFloat16(Faster, name="bfloat16"):
    """Convolutions and products in bfloat16 by autocast; images, levels and the steps of a sampler stay as they are.

    Not equal up to rounding: bfloat16 has three decimal digits. Measure the difference. Gradients are taken the same way.
    """

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The estimate in the dtype of the images."""
        return _low(self, noisy, sigma, torch.bfloat16)


class Float16(Faster, name="float16"):
    """As `BFloat16` with float16, finer and of less range, for hardware without bfloat16.

    Where a gradient is asked for the denoiser is run as it is: faint gradients would vanish in float16.
    """

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The estimate in the dtype of the images."""
        return self.plainly(noisy, sigma) if wants_gradient(self, noisy) else _low(self, noisy, sigma, torch.float16)


class Compiled(Faster, name="compiled"):
    """By torch.compile; equal up to rounding. It wants a C++ compiler on a CPU, and takes a minute or so for the first call.

    Again for the first gradient, other sizes, dtypes and modes. Gradients that are differentiated once more, as an attack on
    guidance by a gradient or on `ScoreOpt` does, are taken without: compiled graphs have no second derivative. `backend`: as
    for torch.compile.
    """

    def __init__(self, denoiser: Denoiser, backend: str = "inductor") -> None:
        super().__init__(denoiser)
        self.backend = backend

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: not the compiled function, which is about these weights."""
        return {name: value for name, value in super().__getstate__().items() if name != "_function"}  # type: ignore[no-untyped-call]

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The estimate of the compiled denoiser, which is made at the first call."""
        if twice_differentiated() or is_replica(self):
            return self.plainly(noisy, sigma)
        self.take_over_mode()
        if "_function" not in self.__dict__:
            self.__dict__["_function"] = torch.compile(self.denoiser.forward, backend=self.backend)
        estimate: Tensor = self.__dict__["_function"](noisy, sigma)
        return estimate


def wants_gradient(denoiser: Denoiser, noisy: Tensor) -> bool:
    """Whether a graph is to be made for the images or the weights."""
    return torch.is_grad_enabled() and (noisy.requires_grad or any(one.requires_grad for one in weights_of(denoiser)))


def _low(faster: Faster, noisy: Tensor, sigma: Tensor, dtype: torch.dtype) -> Tensor:
    """Without autocast's cache of weights: each is used once a call, and a CUDA graph must not refer to it."""
    with torch.autocast(noisy.device.type, dtype=dtype, cache_enabled=False):
        return faster.plainly(noisy, sigma).to(noisy.dtype)
