"""NAT, the naive adversarial training that PEARL (Jiao et al., 2023) sets out from."""

from torch import Tensor, nn

from ..attack import Attack
from ..images import trusted
from ..pipeline import DefendedPipeline
from ..recipe import Batch, Recipe
from ..task import Task
from ._parts import attacked, check_parts, check_pipeline, check_share, check_weight


class NAT(Recipe, name="nat"):
    """The model learns attacked, degraded images behind frozen stages (naive adversarial training of Jiao et al., 2023).

    The abstract gives the idea; its text was not available to us, and what it leaves open is an argument with a default of
    ours. `part`: the dotted path of what is trained, "" for model and stages together. `share` of each batch is attacked, the
    rest is degraded alone. `clean`: the weight of the loss on images without degradation, which batches then have to hold.
    `through`: what the attack differentiates, "" for the whole pipeline, "model" for the model alone. For an attack on the
    stages' output hand the model and those images to `AdversarialTraining`, which this is at `clean` 0.
    """

    def __init__(
        self,
        pipeline: DefendedPipeline,
        task: Task,
        attack: Attack,
        share: float = 1.0,
        clean: float = 0.0,
        through: str = "",
        part: str = "model",
    ) -> None:
        super().__init__()
        check_pipeline(pipeline)
        check_parts(pipeline, task, attack)
        self.pipeline, self.task, self.attack, self.through, self.part = pipeline, task, attack, through, part
        self.share, self.clean = check_share(share, "share"), check_weight(clean, "clean")
        for path in (through, part):
            pipeline.get_submodule(path)  # says what is wrong with it
        if self.clean:
            self.needs = ("images", "target", "clean")

    @property
    def trained(self) -> nn.Module:
        """The model, or the part of the pipeline."""
        return self.pipeline.get_submodule(self.part)

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """The mean loss of the mixed batch, with the clean term if there is one."""
        target, aim = batch.truth(), self.pipeline.get_submodule(self.through)
        images = attacked(self.attack, aim, batch.images, self.task.untargeted(target), self.share)
        with trusted():
            spoilt = self.task.loss(self.pipeline(images), target).mean()
            if not self.clean:
                return {"loss": spoilt}
            clean = self.task.loss(self.pipeline(batch.intact()), target).mean()
        return {"loss": spoilt + self.clean * clean, "spoilt": spoilt.detach(), "clean": clean.detach()}
