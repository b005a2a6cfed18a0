"""What makes a robustness figure worthless: no gradient, NaN, random or odd outputs, an attack that noise beats."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .attack import Attack, Model, one_tensor
from .images import trusted
from .search import raw_gradient
from .task import Objective
from .threat import Threat

Marks = Mapping[str, Tensor]  # symptom to the images that show it, bool [N]

SAID = {
    "blind": "No evidence: {row}: no gradient for {count} of {total} images.",
    "nan": "No evidence: {row}: NaN in the gradient of {count} of {total} images.",
    "unsteady": "Not repeatable: {row}: another output for {count} of {total} images when asked again in other company: "
    "average attacks with samples > 1, and read each row as one draw.",
    "probabilities": "Outputs look like probabilities: {row}: they sum to 1 for {count} of {total} images: a softmax before "
    "the loss hides gradients, hand over logits.",
}


def of_gradients(model: Model, images: Tensor, attacked: Tensor, objective: Objective) -> Marks:
    """Which images give an attacker nothing to follow, neither as they are nor attacked; and which give NaN."""
    blind = torch.ones(len(images), dtype=torch.bool, device=images.device)
    broken = torch.zeros_like(blind)
    with torch.inference_mode(False), torch.enable_grad(), trusted():
        goal = objective.cloned()  # all may have been made under inference_mode
        for place in (attacked, images):
            try:
                gradient = raw_gradient(model, place.clone(), goal)
            except torch.cuda.OutOfMemoryError:
                raise
            except (ValueError, RuntimeError):  # no way back at all: the attack that came this far needs none
                return {"blind": torch.zeros_like(blind), "nan": broken}
            broken = broken | ~gradient.isfinite().flatten(1).all(1)
            blind = blind & (gradient == 0).flatten(1).all(1)
    return {"blind": blind, "nan": broken}


def of_outputs(model: Model, images: Tensor, outputs: Tensor, objective: Objective) -> Marks:
    """Which images get another output when asked again, in other company; and whose class scores sum to 1."""
    half = max(1, (len(images) + 1) // 2)
    with torch.no_grad(), trusted():
        again = torch.cat([one_tensor(model(part)) for part in torch.split(images.flip(0), half)]).flip(0)
    same = torch.isclose(again.float(), outputs.float(), rtol=1e-3, atol=1e-4).flatten(1).all(1)
    shares = torch.zeros_like(same)
    if objective.classes is not None and outputs.shape[1] > 1:
        scores = outputs.detach().float().reshape(*outputs.shape[:2], -1)
        sums = torch.isclose(scores.sum(1), torch.ones((), device=scores.device), atol=1e-3)
        shares = (scores >= 0).flatten(1).all(1) & sums.all(1)
    return {"unsteady": ~same, "probabilities": shares}


def trivial(threat: Threat) -> dict[str, Attack]:
    """Changes of the same size that need no thought: an attack that does less than they do has failed."""
    from .attacks import ConstantShift, UniformNoise

    return {"a constant shift": ConstantShift(threat), "uniform noise": UniformNoise(threat)}
