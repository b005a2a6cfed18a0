"""slope: the gradient of a sum inside a forward pass, differentiable once more at the memory of one evaluation."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .guidance import differentiating
from .recompute import recomputed

Loss = Callable[[Tensor], Tensor]


def slope(loss: Loss, images: Tensor, weights: Iterable[Tensor] = (), checkpointed: bool = True) -> Tensor:
    """d sum(loss(images)) / d images, which carries its own gradient in `images` and in those `weights` that want one.

    `checkpointed`: keep `images` alone and evaluate again in the backward pass, randomness and autocast replayed.
    """
    wanted = [weight for weight in weights if weight.requires_grad]
    if not (torch.is_grad_enabled() and (images.requires_grad or wanted)):
        return _slope(loss, images.detach(), False)
    if not checkpointed:
        return _slope(loss, images, True)
    return recomputed(lambda place: _slope(loss, place, torch.is_grad_enabled()), [images], wanted)


def _slope(loss: Loss, images: Tensor, graph: bool) -> Tensor:
    with differentiating(graph):
        leaf = images if images.requires_grad else images.detach().requires_grad_()
        value = loss(leaf).sum()
        if not value.requires_grad:
            return torch.zeros_like(images)
        found = torch.autograd.grad(value, leaf, create_graph=graph, allow_unused=True)[0]
    return torch.zeros_like(images) if found is None else found
