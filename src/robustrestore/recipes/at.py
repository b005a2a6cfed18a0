"""AdversarialTraining (Madry et al., 2018): learn from images that an attack makes anew in each step."""

from torch import Tensor, nn

from ..attack import Attack
from ..recipe import Batch, Recipe
from ..task import Task
from ._parts import attacked, check_parts, check_share


class AdversarialTraining(Recipe, name="adversarial_training"):
    """Minimise `task.loss` on images attacked through `model` itself (Madry et al., 2018); any task.

    `share` of each batch is attacked, the rest stays clean (half and half as in DDC-AT, Xu et al., 2021). `part`: the dotted
    path of what is trained, all of `model` by default; the attack always goes through all of it.
    """

    def __init__(self, model: nn.Module, task: Task, attack: Attack, share: float = 1.0, part: str = "") -> None:
        super().__init__()
        check_parts(model, task, attack)
        self.model, self.task, self.attack, self.part = model, task, attack, part
        self.share = check_share(share, "share")
        model.get_submodule(part)  # says what is wrong with it

    @property
    def trained(self) -> nn.Module:
        """The model, or the part of it."""
        return self.model.get_submodule(self.part)

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The mean loss of the mixed batch."""
        target = batch.truth()
        images = attacked(self.attack, self.model, batch.images, self.task.untargeted(target), self.share)
        return {"loss": self.task.loss(self.model(images), target).mean()}
