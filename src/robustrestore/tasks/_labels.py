"""What the tasks with class labels share: checks of labels, and cross-entropy in full precision."""

import torch
from torch import Tensor
from torch.nn import functional as F


def check_labels(target: Tensor, classes: int, ignore: int | None) -> None:
    """Raise unless every label is 0..classes-1 or `ignore`."""
    labels = target if ignore is None else target[target != ignore]
    if labels.numel() == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        extra = "" if ignore is None else f" or {ignore} (ignored)"
        raise ValueError(
            f"target: expected labels 0..{classes - 1}{extra}, got {low}..{high}: "
            "map the labels, or use a model with more classes"
        )


def check_logits(outputs: Tensor, target: Tensor, dims: int) -> None:
    """Raise unless logits [N, C, ...] of `dims` dimensions face integer labels [N, ...]."""
    wanted = "[N, classes]" if dims == 2 else "[N, classes, H, W]"
    if outputs.dim() != dims:
        raise ValueError(
            f"outputs: expected logits {wanted}, got {list(outputs.shape)}: wrong task, or pick one output with Adapted"
        )
    if target.is_floating_point() or target.dtype == torch.bool:
        raise TypeError(f"target: expected integer labels, got {target.dtype}: convert class maps with .long()")
    shape = (outputs.shape[0], *outputs.shape[2:])
    if target.shape != shape:
        raise ValueError(
            f"target: expected labels {list(shape)} for outputs {list(outputs.shape)}, got {list(target.shape)}: "
            "resize the outputs with Adapted, or the labels"
        )


def check_finite(outputs: Tensor) -> None:
    """Raise where a model gave NaN or infinity."""
    if not bool(outputs.isfinite().all()):
        raise ValueError("outputs: expected finite values, got NaN or infinity: look at the model and its precision")


def cross_entropy(outputs: Tensor, target: Tensor, ignore: int | None) -> Tensor:
    """Cross-entropy per position, float32 or finer, 0 where ignored; labels out of range raise on the CPU."""
    logits = outputs if outputs.dtype == torch.float64 else outputs.float()
    try:
        return F.cross_entropy(logits, target.long(), reduction="none", ignore_index=-100 if ignore is None else ignore)
    except IndexError:  # the CPU looks at every label anyway
        check_labels(target, outputs.shape[1], ignore)
        raise


def sharp_cross_entropy(outputs: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy [N] of logits [N, C], in float32 or finer, exact where a model is sure of itself.

    log(1 + sum over other classes of exp(z_i - z_y)): log-sum-exp less z_y rounds to 0 at a lead of 17, this one at 87, so
    that an attack that sees nothing but this number still sees it move.
    """
    logits = outputs if outputs.dtype == torch.float64 else outputs.float()
    labels = target.long()[:, None]
    try:
        ahead = (logits - logits.gather(1, labels)).scatter(1, labels, -torch.inf)
    except (IndexError, RuntimeError):  # the CPU looks at every label anyway
        check_labels(target, outputs.shape[1], ignore=None)
        raise
    return F.softplus(ahead.logsumexp(1)) if logits.shape[1] > 1 else 0 * logits[:, 0]


def as_labels(target: Tensor, what: str) -> Tensor:
    """`target` if it holds integers; TypeError otherwise (a float target would be read as probabilities)."""
    if target.is_floating_point() or target.dtype == torch.bool:
        raise TypeError(f"{what}: expected integer labels, got {target.dtype}: this task compares classes, not images")
    return target
