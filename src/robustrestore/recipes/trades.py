"""TRADES (Zhang et al., 2019): what AGDM trains its auxiliary network with."""

from torch import Tensor, nn

from ..attack import Attack
from ..losses import Divergence, divergence
from ..modes import evaluating
from ..recipe import Batch, Recipe
from ..task import Task
from ._parts import attacked, check_parts, check_weight


class Trades(Recipe, name="trades"):
    """Accuracy on clean images, and an answer that an attack does not move (TRADES, Zhang et al., 2019).

    loss(f(x), y) + beta KL(f(x) || f(x')), where the attack climbs that divergence and needs no label, in evaluation mode. For
    classifiers and, our extension, for segmenters (mean over labelled pixels) and restorers (squared difference). `beta` 6,
    Linf 0.031 and ten steps of 0.007 from Gaussian noise of 0.001 (`attacks.TPGD`) are those of the authors' CIFAR-10 code.
    Both terms train the batch statistics of `model`. AGDM (Lin et al., 2024) says no more of its network than this.
    """

    def __init__(self, model: nn.Module, task: Task, attack: Attack, beta: float = 6.0) -> None:
        super().__init__()
        check_parts(model, task, attack)
        self.model, self.task, self.attack, self.beta = model, task, attack, check_weight(beta, "beta")

    @property
    def trained(self) -> nn.Module:
        """The model."""
        return self.model

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, its clean part, and the divergence in nats."""
        target = batch.truth()
        plain = self.task.untargeted(target)
        clean = self.model(batch.images)
        natural = self.task.loss(clean, target).mean()
        if self.beta == 0:
            return {"loss": natural}
        with evaluating(self.model):
            goal = Divergence().run(self.model, batch.images, plain)
        images = attacked(self.attack, self.model, batch.images, goal)
        apart = divergence(clean, self.model(images), plain).mean()
        return {"loss": natural + self.beta * apart, "natural": natural.detach(), "divergence": apart.detach()}
