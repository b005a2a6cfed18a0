"""Membership attacks by one score an image: correctness, confidence, entropies, distance under noise."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..certify import Noise
from ..images import trusted
from ..modes import evaluating, generator, seeded

Model = Callable[[Tensor], Tensor]
Ask = Callable[[Tensor], Tensor]
"""Images [n, C, H, W] to a model's outputs, in evaluation mode, without a graph, in batches."""


@dataclass(frozen=True)
class Pool:
    """Members, then non-members, in one order: images [N, C, H, W], labels [N], and which were trained on, bool [N]."""

    images: Tensor
    labels: Tensor
    inside: Tensor


def asking(model: Model, batch: int = 256) -> Ask:
    """The model in evaluation mode, without a graph, on its own device, in batches."""
    owner = getattr(model, "__self__", model)
    weight = next(iter(owner.parameters()), None) if isinstance(owner, nn.Module) else None

    def ask(images: Tensor) -> Tensor:
        with torch.no_grad(), evaluating(model), trusted():
            parts = [model(part if weight is None else part.to(weight.device)) for part in torch.split(images, batch)]
        return torch.cat([part.cpu() for part in parts])

    return ask


class MembershipAttack(ABC):
    """A score for each image of a pool, higher where it looks like a member. Plug-ins write `score`.

    `label_only`: it looks at the answered class alone, so it fits targets that tell labels [N]; the others want class scores
    [N, K]. `threshold`: a fixed one; None has it chosen on one half of the pool and judged on the other.
    """

    label_only = False
    threshold: float | None = None

    @property
    def name(self) -> str:
        """What it is called in a report."""
        return repr(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @abstractmethod
    def score(self, pool: Pool, outputs: Tensor, ask: Ask) -> Tensor:
        """The scores [N], finite, of the model's `outputs` for the pool; `ask` puts further images to the model."""


def answered(outputs: Tensor) -> Tensor:
    """The class [N] of labels [N] or scores [N, K]."""
    return outputs if outputs.dim() == 1 else outputs.argmax(1)


def log_probabilities(outputs: Tensor) -> Tensor:
    """log softmax [N, K] in float64."""
    return outputs.double().log_softmax(1)


class Gap(MembershipAttack):
    """A member is what is classified right (Yeom et al., 2018): balanced accuracy 1/2 + (accuracy inside - outside) / 2."""

    label_only = True
    threshold = 0.5

    def score(self, pool: Pool, outputs: Tensor, ask: Ask) -> Tensor:
        """1 where right."""
        return (answered(outputs) == pool.labels).double()


class Confidence(MembershipAttack):
    """The probability of the true label, above a threshold (Yeom et al., 2018: low loss)."""

    def score(self, pool: Pool, outputs: Tensor, ask: Ask) -> Tensor:
        """As log p / (1 - p), which rises with p and is still told apart where p is close to 1."""
        return log_odds(outputs, pool.labels)


class Entropy(MembershipAttack):
    """The entropy of the probabilities, below a threshold (Salem et al., 2019); knows no label."""

    def score(self, pool: Pool, outputs: Tensor, ask: Ask) -> Tensor:
        """-log of the entropy."""
        logs = log_probabilities(outputs)
        return _falling(-(logs.exp() * logs).sum(1))


class ModifiedEntropy(MembershipAttack):
    """-(1 - p_y) log p_y - sum over other classes of p log(1 - p), below a threshold (Song and Mittal, 2021).

    One threshold for all classes; the paper has one a class.
    """

    def score(self, pool: Pool, outputs: Tensor, ask: Ask) -> Tensor:
        """-log of it."""
        logs = log_probabilities(outputs)
        rest = log_rest(logs)
        own = torch.zeros_like(logs, dtype=torch.bool).scatter(1, pool.labels[:, None], True)
        return _falling(-torch.where(own, rest.exp() * logs, logs.exp() * rest).sum(1))


def _falling(values: Tensor) -> Tensor:
    """-log of values >= 0: a score that falls with them, on a scale that keeps small ones apart."""
    return -values.clamp(min=1e-300).log()


def log_odds(outputs: Tensor, labels: Tensor) -> Tensor:
    """log p_y - log(1 - p_y) [N], in float64, from the logits so that nothing rounds to 0."""
    logs, own = log_probabilities(outputs), labels[:, None]
    return (logs.gather(1, own) - log_rest(logs).gather(1, own))[:, 0]


def log_rest(logs: Tensor) -> Tensor:
    """log(1 - p) [N, K] from log p; of the likeliest class as the sum over the others, so that nothing cancels near 1."""
    best = logs.argmax(1, keepdim=True)
    others = logs.scatter(1, best, -torch.inf).logsumexp(1, keepdim=True)
    return torch.log1p(-logs.exp().clamp(max=0.5)).scatter(1, best, others)


class NoiseDistance(MembershipAttack):
    """The share of `draws` noisy copies that get the true label: a stand-in for the distance to the boundary, labels alone.

    After the label-only attacks of Choquette-Choo et al. (2021) and Li and Zhang (2021). An image costs `draws` queries.
    `noise` and number are our choice.
    """

    label_only = True

    def __init__(self, noise: Noise, draws: int = 50, seed: int = 0) -> None:
        if draws < 1:
            raise ValueError(f"draws: expected a whole number >= 1, got {draws}")
        self.noise, self.draws, self.seed = noise, draws, seed

    def __repr__(self) -> str:
        return f"NoiseDistance({self.noise!r}, draws={self.draws})"

    def score(self, pool: Pool, outputs: Tensor, ask: Ask) -> Tensor:
        """The share right, -1 / draws where the image itself is wrong."""
        hits, own = torch.zeros(len(pool.labels), dtype=torch.float64), generator(self.seed, pool.images.device)
        for k in range(self.draws):
            drawn = self.noise.sample_like(pool.images, own)
            with seeded(self.seed + k):
                hits += (answered(ask(self.noise.applied(pool.images, drawn))) == pool.labels).double()
        return torch.where(answered(outputs) == pool.labels, hits / self.draws, -1 / self.draws)
