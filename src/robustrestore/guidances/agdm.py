"""AGDM (Lin et al., 2024): guidance by the features and the class that a robust auxiliary network sees."""

import warnings

import torch
from torch import Tensor, nn

from ..diffusion.guidance import GradientGuidance, Reference, check_amount
from ._networks import check_layer, read
from .class_terms import ClassTerm, LabelOfInput
from .references import check_reference


class AGDM(GradientGuidance, name="agdm"):
    """Adversarial guided diffusion (Lin et al., 2024), a reconstruction: the paper leaves much open, no code is known.

    log p = strength (-feature_weight D(h(noisy), h(reference)) + class_weight log p(y | noisy)). `network`: images in
    [0, 1] to scores [N, C] or [N, C, H, W] (wrap yours in Adapted), trained by TRADES; it stays frozen and as it is.

    The open points, with defaults of ours: `layer`, the latent h: None for penultimate features (what the last linear layer
    or convolution is handed), "" for the outputs, else the name of a module. D: mean squared difference over features,
    summed over positions. `reference` of D: None for the input as it is, or `Renoised`. `label`: which y, by default
    `LabelOfInput()`; class_weight 0 for none. The network is shown the noisy image; wrap in `OnEstimate` to show it the
    estimate. `strength` has to be swept. Where p is summed over positions, it means the same for images of every size.
    ValueError where the network detaches what a term needs, a warning where its gradient is 0 for a whole batch (for which a
    step waits for the device).
    """

    def __init__(
        self,
        network: nn.Module,
        strength: float = 1.0,
        layer: str | None = None,
        feature_weight: float = 1.0,
        class_weight: float = 1.0,
        label: ClassTerm | None = None,
        reference: Reference | None = None,
    ) -> None:
        super().__init__(strength)
        check_layer(network, layer)
        if not isinstance(label, ClassTerm | None):
            raise TypeError(
                f"label: expected a ClassTerm such as guidances.LabelOfInput(), got {type(label).__name__}; "
                "for no class term write class_weight=0"
            )
        self.network, self.layer = network, layer
        self.feature_weight = check_amount(feature_weight, "feature_weight")
        self.class_weight = check_amount(class_weight, "class_weight")
        if not self.feature_weight and not self.class_weight:
            raise ValueError("feature_weight, class_weight: expected one of them above 0, got 0 and 0: nothing would guide")
        self.label: ClassTerm = LabelOfInput() if label is None else label
        self.reference = check_reference(reference)

    def likelihood(self, seen: Tensor, given: Tensor, sigma: Tensor) -> Tensor:
        """The weighted sum of both terms, [N]."""
        latent, scores = read(self.network, _watched(seen), self.layer)
        wanted, about = read(self.network, given, self.layer)
        if self.reference is not None and self.feature_weight > 0:
            wanted, _ = read(self.network, self.reference.run(given, sigma), self.layer)
        value = torch.zeros_like(sigma)
        if self.feature_weight > 0:
            value = value - self.feature_weight * _led(_distance(latent, wanted), seen, "features")
        if self.class_weight > 0:
            value = value + self.class_weight * _led(self.label.run(scores, about), seen, "scores")
        return value


def _led(term: Tensor, seen: Tensor, what: str) -> Tensor:
    """The term, once it is known that a gradient leads from it to the image."""
    if seen.requires_grad and not term.requires_grad:
        raise ValueError(
            f"network: expected {what} with a gradient in the image, got none: it detaches them; give that term the weight 0, "
            "or take another network or layer"
        )
    return term


def _watched(seen: Tensor) -> Tensor:
    """The image, of which a gradient without any value but 0 is told."""
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(seen) or not seen.requires_grad:
        return seen
    alias = seen.view_as(seen)

    def told(gradient: Tensor) -> None:
        handle.remove()  # the next one is a derivative of this
        if not bool(gradient.any()):
            warnings.warn(
                f"AGDM: the network's gradient is 0 in every pixel of {len(gradient)} images: they are guided by nothing. Take "
                "a network without rounding or saturation, other weights of the terms, or single precision",
                stacklevel=2,
            )

    handle = alias.register_hook(told)  # type: ignore[no-untyped-call]
    return alias


def _distance(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).square().mean(1).reshape(len(first), -1).sum(1)
