"""Plain training: the task's loss of a model or of a pipeline, without any attack."""

from torch import Tensor, nn

from ..recipe import Batch, Recipe
from ..task import Task
from ._parts import check_parts


class Plain(Recipe, name="plain"):
    """Minimise `task.loss` of `model` (a pipeline, say); `part` of it, a dotted path, is trained, all of it by default.

    With `rr.tasks.Restoration()` and degraded images it is ordinary training of a restorer.
    """

    def __init__(self, model: nn.Module, task: Task, part: str = "") -> None:
        super().__init__()
        check_parts(model, task, None)
        self.model, self.task, self.part = model, task, part
        model.get_submodule(part)  # says what is wrong with it

    @property
    def trained(self) -> nn.Module:
        """The model, or the part of it."""
        return self.model.get_submodule(self.part)

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The mean loss."""
        return {"loss": self.task.loss(self.model(batch.images), batch.truth()).mean()}
