"""DPMSolverPP: the second-order multistep solver of the probability flow (Lu et al., 2022)."""

import math

from torch import Tensor

from .grid import Even, Grid, checked_grid
from .sampling import Before, Sampler


class DPMSolverPP(Sampler, name="dpm_solver_pp"):
    """DPM-Solver++(2M) (Lu et al., 2022), midpoint form, data prediction: one network call a step, no noise.

    DDIM's step (eta 0) towards an estimate carried on along log sigma from the last two; the first step has one estimate
    only and is DDIM's. The last step, to sigma 0, returns the estimate. `grid`: where the chain stops; None is evenly in
    sigma.
    """

    def __init__(self, grid: Grid | None = None) -> None:
        self.grid = checked_grid(grid)

    def levels(self, sigma: float, steps: int) -> list[float]:
        """Those of the grid."""
        return (Even() if self.grid is None else self.grid).levels(sigma, steps)

    def spread(self, now: float, then: float) -> float:
        """No noise."""
        return 0.0

    def mean(self, noisy: Tensor, clean: Tensor, now: float, then: float, before: Before) -> Tensor:
        """Towards clean + (clean - previous) h / (2 h_before), with h a step's length in log sigma."""
        if before is not None:
            previous, level = before
            clean = clean + math.log(now / then) / (2 * math.log(level / now)) * (clean - previous)
        return clean + then / now * (noisy - clean)
