"""NES (Ilyas et al., 2018): gradient ascent with a gradient estimated from scores."""

import torch
from torch import Tensor

from ..black_box import BlackBox, Draws, Oracle
from ..images import per_image
from ..loss import Loss
from ..threat import Threat


class NES(BlackBox, name="nes"):
    """Natural evolution strategies (Ilyas, Engstrom, Athalye and Lin, 2018): PGD along an estimated gradient.

    The estimate sums Gaussian directions, each weighted by the difference of the gain at +h and -h along it, over `pairs`; a
    step costs 2 `pairs` + 1 queries, the last one takes the pairs that it can pay. `spread`: length of h, about, in [0, 1]
    units; probes may leave the threat, not [0, 1]. `step`: in the threat's units, by default a fifth of it (our choice).
    """

    def __init__(
        self,
        threat: Threat,
        queries: int = 10_000,
        pairs: int = 50,
        step: float | None = None,
        spread: float = 0.1,
        loss: Loss | None = None,
        seed: int | None = 0,
    ) -> None:
        super().__init__(threat, queries, loss)
        if pairs < 1:
            raise ValueError(f"pairs: expected a whole number >= 1, got {pairs}")
        if step is not None and not step > 0:
            raise ValueError(f"step: expected a size > 0 or None (a fifth of the threat), got {step}")
        if not spread > 0:
            raise ValueError(f"spread: expected a length > 0, got {spread}")
        self.pairs, self.step, self.spread, self.seed = pairs, step, float(spread), seed

    def hunt(self, oracle: Oracle, gain: Tensor) -> None:
        """Estimate, step, look; while one pair and a look can be paid."""
        draws, current = Draws(self.seed), oracle.original
        step = self.threat.eps / 5 if self.step is None else self.step
        while (pairs := min(self.pairs, (oracle.left - 1) // 2)) > 0:
            uphill = estimate(oracle, current, pairs, self.spread, draws)
            current = self.threat.project(current + step * self.threat.steepest(uphill), oracle.original)
            oracle.ask(current)
            if (kept := oracle.drop()) is not None:
                current = current[kept]


def estimate(oracle: Oracle, images: Tensor, pairs: int, spread: float, draws: Draws) -> Tensor:
    """The gradient of the gain at `images`, from 2 `pairs` queries each; unbiased where the gain is linear in [0, 1]."""
    total = torch.zeros_like(images)
    for _ in range(pairs):
        direction = draws.normal(images, *images.shape[1:])
        far = direction * (spread / images.shape[1:].numel() ** 0.5)
        rise = oracle.gauge((images + far).clamp(0, 1)) - oracle.gauge((images - far).clamp(0, 1))
        total = total + direction * per_image(rise, images)
    size = 2 * spread * pairs / images.shape[1:].numel() ** 0.5
    return torch.nan_to_num(total / size, nan=0.0, posinf=0.0, neginf=0.0)
