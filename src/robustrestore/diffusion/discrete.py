"""DiscreteTime: networks trained on numbered timesteps that predict noise, v or the image."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..images import per_image
from .denoiser import Denoiser, answer, checked_multiple
from .schedule import checked_alphas, linear_alphas

Prediction = Literal["epsilon", "v_prediction", "sample"]


class DiscreteTime(Denoiser, name="discrete_time"):
    """A network `network(z, timestep [N]) -> prediction` on [-1, 1] images, as a denoiser on [0, 1] images.

    With a = alphas[t], z = sqrt(a) (2 x - 1) + sqrt(1 - a) noise, so that sigma = sqrt((1 - a) / a) / 2. A sigma between
    two timesteps asks for a fractional one, found by interpolation of log sigma; `rounded=True` takes the nearest, for
    networks with a table of embeddings. `prediction`: what the network returns, named as in diffusers; of more output
    channels than the image has, the first are taken (learned variances follow them). `timestep_scale`: the network is told
    that many times the timestep (1000 / steps for OpenAI's models of other than 1000 steps).
    """

    def __init__(
        self,
        network: nn.Module,
        alphas: Sequence[float] | None = None,
        prediction: Prediction = "epsilon",
        multiple: int = 1,
        rounded: bool = False,
        timestep_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < timestep_scale < math.inf:
            raise ValueError(f"timestep_scale: expected a finite number above 0, got {timestep_scale}")
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"prediction: expected epsilon, v_prediction or sample, got {prediction!r}")
        self.network, self.prediction, self.rounded = network, prediction, rounded
        self.multiple = checked_multiple(multiple)
        self.timestep_scale = float(timestep_scale)
        self.alphas = linear_alphas() if alphas is None else checked_alphas(alphas, least=2)
        a = torch.tensor(self.alphas, dtype=torch.float64)
        logs = ((1 - a) / a).sqrt().div(2).log().float()
        if not bool(logs.isfinite().all() and (logs.diff() > 0).all()):
            raise ValueError("alphas: expected levels that single precision tells apart, got some that it does not")
        self._bits: Tensor  # the bits of log sigma as integers, so that casting a model to half leaves its schedule exact
        self.register_buffer("_bits", logs.view(torch.int32), persistent=False)

    def sigma(self, timestep: int) -> float:
        """The level of a timestep (0-based) in [0, 1] units."""
        if timestep not in range(len(self.alphas)):
            raise ValueError(f"timestep: expected a whole number from 0 to {len(self.alphas) - 1}, got {timestep}")
        a = self.alphas[int(timestep)]
        return math.sqrt((1 - a) / a) / 2

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep [N] of each level, fractional unless `rounded`; levels off the table get its ends."""
        table = self._bits.view(torch.float32)
        logs = sigma.float().clamp(min=1e-12).log().clamp(min=table[0], max=table[-1])
        above = torch.searchsorted(table, logs.contiguous()).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        exact = above - 1 + (logs - low) / (high - low)
        return exact.round().long() if self.rounded else exact

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Scale to the network's variance, predict, and solve for the image."""
        time = self.timestep(sigma)
        wide = torch.promote_types(noisy.dtype, torch.float32)  # in half precision 1 - a is 0 at low levels
        level = per_image(self._bits.view(torch.float32)[time].exp() if self.rounded else sigma, noisy).to(wide)
        root = torch.rsqrt(1 + 4 * level.square())  # of a; that of 1 - a is 2 level root
        z = (root * (2 * noisy - 1)).to(noisy.dtype)
        told = time if self.timestep_scale == 1 else time * self.timestep_scale
        predicted = answer(_tensor(self.network(z, told))[:, : noisy.shape[1]], self.network, noisy).to(wide)
        solve: dict[str, Callable[[], Tensor]] = {
            "epsilon": lambda: noisy - level * predicted,
            "v_prediction": lambda: (root.square() * (2 * noisy - 1) - 2 * level * root * predicted + 1) / 2,
            "sample": lambda: (predicted + 1) / 2,
        }
        return solve[self.prediction]().to(noisy.dtype)


def _tensor(output: Any) -> Tensor:
    """A network's answer: a tensor, or diffusers' output object with `.sample`."""
    found = output if isinstance(output, Tensor) else getattr(output, "sample", None)
    if not isinstance(found, Tensor):
        raise TypeError(f"network: expected a tensor or an object with .sample, got {type(output).__name__}")
    return found
