"""membership: how well attacks tell a model's training images from others; of several models side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..certify import SmoothedClassifier
from ..files import digest
from ..images import check_images
from ..modes import generator
from . import roc
from .attacks import Confidence, Entropy, Gap, MembershipAttack, Model, ModifiedEntropy, Pool, asking
from .report import MembershipReport, Row

Batches = Iterable[tuple[Tensor, Tensor]]
RATES = (0.01, 0.001)


class VoteScores:
    """A smoothed classifier as its owner deploys it, for membership attacks: images to log vote shares [N, K] of `n` draws.

    The shares are (count + 1) / (n + K). A `seed` repeats the draws.
    """

    def __init__(self, smoothed: SmoothedClassifier, n: int = 100, seed: int | None = 0) -> None:
        self.smoothed, self.n, self.seed = smoothed, n, seed

    def __call__(self, images: Tensor) -> Tensor:
        """In float64."""
        found = self.smoothed.predict(images, self.n, seed=self.seed)
        counts = torch.tensor([one.counts for one in found], dtype=torch.float64)
        return ((counts + 1) / (counts + 1).sum(1, keepdim=True)).log()


def membership(
    targets: Model | Mapping[str, Model],
    members: Batches,
    non_members: Batches,
    attacks: Sequence[MembershipAttack] | Mapping[str, Sequence[MembershipAttack]] | None = None,
    seed: int = 0,
    progress: Callable[[str, str], None] | None = None,
) -> MembershipReport:
    """Membership inference against one model or several, by name: target, surrogate, smoothed surrogate.

    `members`: batches of (images, labels) that the *original target* was trained on; `non_members`: as many from the same
    source, in no training or query set. A target is a classifier as any function of images: class scores [N, K], or labels [N]
    for attacks that need no more; `VoteScores` for a smoothed one. `attacks`: for all targets, or by target (LiRA's shadows are
    of one); by default those of a single score. AUC and TPR are over all images; balanced accuracy on one half, with the
    threshold of the other. ValueError for an image on both sides. The report warns where images are too few for the rates it
    shows. That attacks fail is no proof of privacy.
    """
    pool = _pooled(members, non_members)
    named = dict(targets) if isinstance(targets, Mapping) else {"target": targets}
    rows = []
    for name, model in named.items():
        ask = asking(model)
        outputs = _checked(ask(pool.images).cpu(), pool, name)
        for attack in _attacks(attacks, name, outputs):
            if outputs.dim() == 1 and not attack.label_only:
                raise ValueError(
                    f"{attack.name}: expected class scores of {name!r}, got labels: only Gap and NoiseDistance fit it"
                )
            rows.append(_row(name, attack, attack.score(pool, outputs, ask).double().cpu(), pool, seed))
            if progress is not None:
                progress(name, attack.name)
    inside = int(pool.inside.sum())
    about = {"members": inside, "non-members": len(pool.inside) - inside, "seed": seed, "targets": list(named)}
    return MembershipReport(tuple(rows), tuple(_warnings(pool)), about)


def _pooled(members: Batches, non_members: Batches) -> Pool:
    sides = [[(i.cpu(), t.cpu()) for i, t in side] for side in (members, non_members)]
    sizes = [sum(len(images) for images, _ in side) for side in sides]
    if min(sizes) < 4:
        raise ValueError(f"expected four members and non-members at least, got {sizes[0]} and {sizes[1]}")
    images = torch.cat([images for side in sides for images, _ in side])
    labels = torch.cat([labels for side in sides for _, labels in side]).long()
    check_images(images)
    keys = [digest(image) for image in images]
    if both := set(keys[: sizes[0]]) & set(keys[sizes[0] :]):
        raise ValueError(f"non_members: expected images that are no members, got {len(both)} on both sides")
    return Pool(images, labels, torch.arange(len(images)) < sizes[0])


def _checked(outputs: Tensor, pool: Pool, name: str) -> Tensor:
    if outputs.dim() not in (1, 2) or len(outputs) != len(pool.labels) or (outputs.dim() == 2) != outputs.is_floating_point():
        raise ValueError(
            f"{name}: expected class scores [N, K] or whole labels [N] for {len(pool.labels)} images, got {outputs.dtype} "
            f"{list(outputs.shape)}"
        )
    return outputs


def _attacks(
    given: Sequence[MembershipAttack] | Mapping[str, Sequence[MembershipAttack]] | None, name: str, outputs: Tensor
) -> Sequence[MembershipAttack]:
    if given is None:
        return [Gap()] if outputs.dim() == 1 else [Gap(), Confidence(), Entropy(), ModifiedEntropy()]
    if isinstance(given, Mapping) and name not in given:
        raise LookupError(f"attacks: expected some for {name!r}, got those for {sorted(given)}")
    found = given[name] if isinstance(given, Mapping) else given
    for one in found:
        if not isinstance(one, MembershipAttack):
            raise TypeError(f"attacks: expected such as privacy.Confidence(), got {type(one).__name__}")
    return found


def _row(name: str, attack: MembershipAttack, scores: Tensor, pool: Pool, seed: int) -> Row:
    if scores.shape != pool.labels.shape or not bool(scores.isfinite().all()):
        raise ValueError(f"{attack.name}: expected one finite score for each of {len(pool.labels)} images, from {name!r}")
    values, inside = _tied(scores), pool.inside.numpy()
    members, others = values[inside], values[~inside]
    if attack.threshold is not None:
        accuracy = roc.balanced(members, others, attack.threshold)
    else:
        (fit_in, judge_in), (fit_out, judge_out) = (_halves(side, seed + k) for k, side in enumerate((members, others)))
        accuracy = roc.balanced(judge_in, judge_out, roc.best_threshold(fit_in, fit_out))
    rates = {rate: roc.tpr_at(rate, members, others) for rate in RATES}
    return Row(name, attack.name, accuracy, roc.auc(members, others), rates)


def _tied(scores: Tensor) -> roc.Scores:
    """The scores without their last digits: rounding hangs on an image's place in a batch, and members come first."""
    step = 1e-6 * max(float(scores.abs().max()), 1e-300)
    return np.asarray((scores / step).round().numpy(), dtype=np.float64) * step


def _halves(values: roc.Scores, seed: int) -> tuple[roc.Scores, roc.Scores]:
    order = torch.randperm(len(values), generator=generator(seed)).numpy()
    cut = len(values) // 2
    return np.asarray(values[order[:cut]]), np.asarray(values[order[cut:]])


def _warnings(pool: Pool) -> list[str]:
    inside = int(pool.inside.sum())
    outside, found = len(pool.inside) - inside, []
    for rate in RATES:
        if outside < (wanted := roc.fewest_others(rate)):
            found.append(
                f"{outside} non-members are too few for a false-positive rate of {rate:.1%}: below {wanted} the interval "
                "starts at 0 whatever the attack"
            )
    if max(inside, outside) > 2 * min(inside, outside):
        found.append(f"{inside} members and {outside} non-members: not balanced, which widens the intervals")
    return found
