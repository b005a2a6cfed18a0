"""Image restoration: outputs and target are images [N, C, H, W] in [0, 1]."""

from torch import Tensor

from .. import metrics
from ..images import check_shape
from ..task import Objective, Task
from ._labels import check_finite


class Restoration(Task, name="restoration"):
    """Come close to a clean image. Loss: mean squared error per image, in squared [0, 1] units.

    An image counts as solved from `floor` dB PSNR on (our choice). The same objective serves both goals of the field:
    `untargeted(ground truth)` destroys quality, `untargeted(model(clean input))` changes the answer. For the latter the
    gradient is zero at the clean input, so the attack has to start off it.
    """

    def __init__(self, floor: float = 25.0) -> None:
        self.floor = float(floor)

    def _fit(self, outputs: Tensor, target: Tensor) -> None:
        check_shape(outputs, "outputs")
        check_shape(target, "target")
        if outputs.shape != target.shape:
            raise ValueError(
                f"outputs: expected images like the target {list(target.shape)}, got {list(outputs.shape)}: "
                "wrong task, or crop and resize one of the two"
            )

    def check(self, outputs: Tensor, target: Tensor) -> None:
        """Expect images of one shape, finite, the target in [0, 1]."""
        self._fit(outputs, target)
        check_finite(outputs)
        low, high = float(target.min()), float(target.max())
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise ValueError(f"target: expected values in [0, 1], got [{low:.4g}, {high:.4g}]: divide by 255")

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean squared error [N]."""
        self._fit(outputs, target)
        wide = outputs if outputs.dtype.itemsize > 4 else outputs.float()
        return (wide - target.to(wide)).square().flatten(1).mean(1)

    def correct(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Whether the clamped output reaches `floor` dB."""
        return self.loss(outputs.clamp(0, 1), target) <= 10 ** (-self.floor / 10)

    def _seen(self, outputs: Tensor, target: Tensor) -> Tensor:
        return self.loss(outputs.clamp(0, 1), target)

    def metrics(self) -> tuple[metrics.Metric, ...]:
        """PSNR and SSIM."""
        return metrics.psnr(), metrics.ssim()

    def untargeted(self, target: Tensor) -> Objective:
        """Raise the squared error; reached below `floor` dB. Harm: the clamped output's squared error."""
        return Objective(self.loss, lambda outputs, wanted: ~self.correct(outputs, wanted), target, harmed=self._seen)

    def targeted(self, wanted: Tensor) -> Objective:
        """Lower the squared error to the wanted image; reached from `floor` dB on. Harm: 1 less the clamped error."""
        return Objective(
            lambda outputs, images: -self.loss(outputs, images),
            self.correct,
            wanted,
            harmed=lambda outputs, images: 1 - self._seen(outputs, images),
            towards=True,
        )

    def render(self, outputs: Tensor, images: Tensor) -> Tensor:
        """The output itself, clamped."""
        return outputs[:, :3].detach().float().clamp(0, 1).expand(-1, 3, -1, -1)
