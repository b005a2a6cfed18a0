"""A purifier of one's own: total variation (Rudin, Osher and Fatemi, 1992), as a defence after Guo et al. (2018).

It is checked against the promises of every stage, then measured beside a blur.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

import robustrestore as rr


class TotalVariation(rr.Purifier, name="total_variation"):
    """Gradient steps on |x - image|^2 / 2 + weight * smoothed total variation of x. Differentiable."""

    def __init__(self, weight: float = 0.03, steps: int = 20) -> None:
        super().__init__()
        if weight < 0 or steps < 1:
            raise ValueError(f"expected weight >= 0 and steps >= 1, got {weight} and {steps}")
        self.weight, self.steps = float(weight), steps

    def run(self, images: Tensor) -> Tensor:
        x = images
        for _ in range(self.steps):
            right = F.pad(x.diff(dim=3), (0, 1))  # the difference to the neighbour, 0 at the edge
            below = F.pad(x.diff(dim=2), (0, 0, 0, 1))
            length = (right.square() + below.square() + 1e-3).sqrt()
            right, below = right / length, below / length
            divergence = right - F.pad(right, (1, 0))[..., :-1] + below - F.pad(below, (0, 0, 1, 0))[..., :-1, :]
            x = x - 0.2 * (x - images - self.weight * divergence)
        return x


def main() -> None:
    purifier = TotalVariation()
    rr.checks.check_component(purifier)
    rr.checks.check_stage(purifier)

    clean = torch.cat([photograph[..., :48, :64] for photograph in rr.assets.photographs().values()])
    rainy = rr.degradations.Rain()(clean)
    defended = rr.DefendedPipeline(rr.restorers.UNet.derain(), [purifier])
    attack = rr.attacks.PGD(rr.Linf(4 / 255), steps=3)
    print(rr.evaluate(defended, [(rainy, clean)], rr.tasks.Restoration(), [attack], baselines=[rr.purifiers.Blur()]))


if __name__ == "__main__":
    main()
