"""Noise and a shift of brightness: what changes of the same size do that do not look for harm."""

from abc import abstractmethod

import torch
from torch import Tensor

from ..attack import Attack, Model
from ..black_box import Oracle
from ..images import per_image
from ..modes import generator
from ..task import Objective
from ..threat import Threat, as_threat


class Noise(Attack):
    """Random changes, whatever they do: never compared with the clean image. Final classes say how they are drawn.

    Of `draws` the worst for the model is kept; each costs one look at the outputs. With a `seed` every image gets the same
    noise whatever its batch; None draws for each.
    """

    ascends = False
    blind = True

    def __init__(self, threat: Threat, draws: int = 1, seed: int | None = 0) -> None:
        if draws < 1:
            raise ValueError(f"draws: expected a whole number >= 1, got {draws}")
        self.threat, self.draws, self.seed = as_threat(threat), draws, seed

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Show every draw."""
        oracle, own = Oracle(model, images, objective, self.draws), generator(self.seed)
        while oracle.left:
            one = oracle.original if self.seed is None else oracle.original[:1]
            oracle.ask(self.threat.project(oracle.original + self.draw(one, own), oracle.original))
            oracle.drop()
        return oracle.result()

    @abstractmethod
    def draw(self, images: Tensor, own: torch.Generator) -> Tensor:
        """A change like `images`, before it is cut to the threat."""


class UniformNoise(Noise, name="uniform_noise"):
    """Noise drawn uniformly from the threat, then cut to [0, 1]: Linf, each value for itself; L2, any change in the ball."""

    def draw(self, images: Tensor, own: torch.Generator) -> Tensor:
        """The threat's own draw."""
        return self.threat.draw(images, own)


class GaussianNoise(Noise, name="gaussian_noise"):
    """Gaussian noise with the root mean square of uniform noise in the same threat, then cut to the threat and to [0, 1].

    Linf: a standard deviation of eps / sqrt(3), of which 8 % of the values are cut. L2: much the same as uniform noise.
    """

    def draw(self, images: Tensor, own: torch.Generator) -> Tensor:
        """A normal value each, scaled to what a uniform draw measures."""
        power = self.threat.draw(images, own).square().flatten(1).mean(1)
        normal = torch.randn(images.shape, generator=own, dtype=torch.float32).to(images)
        return normal * per_image(power.sqrt(), images)


class ConstantShift(Attack, name="constant_shift"):
    """All values brighter or all darker, as far as the threat lets them; the worse of the two for the model is kept.

    Linf: by eps; L2: by the same amount each, of length eps. For restorers this may do more than 10 steps of PGD.
    """

    ascends = False
    blind = True

    def __init__(self, threat: Threat) -> None:
        self.threat = as_threat(threat)

    def run(self, model: Model, images: Tensor, objective: Objective) -> Tensor:
        """Show both."""
        oracle = Oracle(model, images, objective, queries=2)
        for sign in (1.0, -1.0):
            if oracle.left:
                shift = sign * self.threat.eps * self.threat.steepest(torch.ones_like(oracle.original))
                oracle.ask(self.threat.project(oracle.original + shift, oracle.original))
                oracle.drop()
        return oracle.result()
