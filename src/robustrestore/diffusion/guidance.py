"""Guidance: what pulls the estimate of a step towards the input, or towards what a network sees in it."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..component import Component
from ..images import check_shape, per_image

FARTHEST = 1.0  # the most that a gradient moves a pixel of an estimate in one step: from black to white


class Guidance(Component, nn.Module, kind="guidances"):
    """Corrects the estimate of the clean image in each step of a sampler. Plug-ins write `run`.

    Holds no state, so that a step can be computed again. Differentiable in all images, to second order where it takes a
    gradient of its own; makes no graph where none is asked for. `through`: it differentiates the estimate in `noisy`, and
    has to be handed one with its graph, as `guided` makes it.
    """

    through: bool = False

    def __init__(self) -> None:
        super().__init__()

    @final  # type: ignore[misc]
    def forward(self, estimate: Tensor, noisy: Tensor, given: Tensor, sigma: Tensor | float) -> Tensor:
        """The corrected estimate; all images [N, C, H, W] in [0, 1] units, `given` the input of the defence.

        `sigma`: the level of `noisy`, a number or [N].
        """
        for what, images in (("estimate", estimate), ("noisy", noisy), ("given", given)):
            check_shape(images, what)
            if images.shape != estimate.shape:
                raise ValueError(f"{what}: expected the estimate's shape {list(estimate.shape)}, got {list(images.shape)}")
        dtype = noisy.dtype if noisy.dtype.itemsize > 4 else torch.float32
        levels = torch.as_tensor(sigma, dtype=dtype, device=noisy.device)
        if levels.shape not in ((), (1,), (len(noisy),)):
            raise ValueError(f"sigma: expected a number or {len(noisy)} levels, one an image, got shape {list(levels.shape)}")
        out = self.run(estimate, noisy, given, levels.expand(len(noisy)))
        if out.shape != estimate.shape:
            raise ValueError(f"{type(self).__name__}: expected run to keep {list(estimate.shape)}, got {list(out.shape)}")
        return out

    @abstractmethod
    def run(self, estimate: Tensor, noisy: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
        """The corrected estimate, for levels [N] in float32 or finer."""


class GradientGuidance(Guidance):
    """Guidance by the gradient of a log-likelihood (Dhariwal and Nichol, 2021). Plug-ins write `likelihood`.

    estimate + strength sigma^2 d/d noisy log p(given | noisy), which is Tweedie's formula with the score of p added. Images
    of a batch are summed, never averaged, so that the pull on one does not depend on the others. No pixel is moved by more
    than 1, so that any strength stays finite; at strength 0 the estimate comes back as it is.
    """

    strength: float

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = check_amount(strength, "strength")

    @abstractmethod
    def likelihood(self, seen: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
        """log p(given | seen) [N] up to a constant, differentiable in both; runs with gradients enabled."""

    @final
    def run(self, estimate: Tensor, noisy: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
        """The estimate moved along the gradient at the noisy image."""
        if self.strength == 0:
            return estimate
        graph = torch.is_grad_enabled() and (noisy.requires_grad or given.requires_grad)
        seen = noisy if graph and noisy.requires_grad else leaf(noisy)
        slope = self.slope(seen, seen, given, sigma, graph)
        return self.pulled(estimate, slope, sigma)

    @final
    def slope(self, seen: Tensor, at: Tensor, given: Tensor, sigma: Tensor, graph: bool) -> Tensor:
        """The gradient of the likelihood of `seen` in the image `at` that `seen` was made from."""
        with differentiating(graph):
            about, levels = (given, sigma) if graph else (_recorded(given).detach(), _recorded(sigma))
            value = self.likelihood(seen, about, levels)
            if value.shape != (len(seen),):
                raise ValueError(f"{type(self).__name__}: expected one likelihood an image, got shape {list(value.shape)}")
            if not value.requires_grad:
                raise ValueError(
                    f"{type(self).__name__}: expected a likelihood with a gradient, got none: a network detaches it"
                )
            (slope,) = torch.autograd.grad(value.sum(), at, create_graph=graph)
        return slope

    @final
    def pulled(self, estimate: Tensor, slope: Tensor, sigma: Tensor) -> Tensor:
        """The estimate moved along a gradient."""
        moved = per_image(self.strength * sigma.square(), slope) * slope.to(sigma.dtype)
        return estimate + moved.clamp(-FARTHEST, FARTHEST).to(estimate.dtype)


class Reference(Component, nn.Module, kind="references"):
    """What a guidance compares with, made from the given images. Plug-ins write `run`; gradients flow through it."""

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def run(self, given: Tensor, sigma: Tensor) -> Tensor:
        """Images [N, C, H, W] for the step at levels [N]."""


def guided(
    denoise: Callable[[Tensor, float], Tensor],
    guidance: Guidance,
    noisy: Tensor,
    given: Tensor,
    sigma: float,
    weights: Iterable[Tensor] = (),
) -> Tensor:
    """The corrected estimate of one step, also for a guidance that looks through the denoiser.

    `weights`: those of the denoiser; the graph is kept if one of them, `noisy` or `given` wants a gradient.
    """
    corrected: Tensor
    if not guidance.through:
        corrected = guidance(denoise(noisy, sigma), noisy, given, sigma)
        return corrected
    graph = torch.is_grad_enabled()
    seen = noisy if graph and noisy.requires_grad else leaf(noisy)
    graph = graph and any(one.requires_grad for one in (noisy, given, *weights))
    with torch.set_grad_enabled(graph):
        with differentiating(graph):
            estimate = denoise(seen, sigma)
        corrected = guidance(estimate, seen, given, sigma)
    return corrected


def check_amount(value: float, what: str) -> float:
    """`value` if it is finite and >= 0; ValueError that names it otherwise."""
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{what}: expected a finite number >= 0, got {value}")
    return float(value)


_twice: ContextVar[bool] = ContextVar("twice", default=False)


@contextmanager
def differentiating(again: bool) -> Iterator[None]:
    """Gradients on, whatever the caller's mode; `again`: they will be differentiated once more.

    Then attention takes the one kernel that has a second derivative.
    """
    token = _twice.set(again)
    kernel = sdpa_kernel(SDPBackend.MATH) if again else nullcontext()
    try:
        with torch.inference_mode(False), torch.enable_grad(), kernel:
            yield
    finally:
        _twice.reset(token)


def twice_differentiated() -> bool:
    """Whether what is computed now has to have a second derivative."""
    return _twice.get()


def leaf(images: Tensor) -> Tensor:
    """The values as what gradients are taken in, also of images made under inference_mode."""
    with torch.inference_mode(False):
        return _recorded(images).detach().requires_grad_()


def _recorded(values: Tensor) -> Tensor:
    """Themselves, or a copy where they were made under inference_mode, which keeps no graph."""
    return values.clone() if values.is_inference() else values
