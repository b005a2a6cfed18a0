"""Metrics as sums over images, so that any of them can be pooled, resumed and given an interval; over torchmetrics.

Each metric measures per-image statistics [N, K]; its value is a function of their sum. That holds for a mean (value, 1)
and for mean IoU (intersection and union per class), which no mean of per-image scores expresses.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Statistics = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """A named measure; higher is better.

    `measure(outputs, target)` gives statistics [N, K], `summarise(sum)` turns their sum [K] into the value (NaN where
    nothing was counted), `interval(statistics)` gives a 95 % interval of the value.
    """

    name: str
    unit: str
    measure: Callable[[Tensor, Tensor], Tensor]
    summarise: Callable[[Statistics], float]
    interval: Callable[[Statistics], Interval]

    def value(self, statistics: Statistics) -> float:
        """The value over all images of `statistics` [N, K]."""
        return self.summarise(statistics.sum(axis=0))


def ratio(total: Statistics) -> float:
    """The first entry over the last: the mean where the last one counts."""
    return float(total[0] / total[-1]) if total[-1] > 0 else float("nan")


def _resampled(statistics: Statistics, draws: int = 1000) -> Iterator[Statistics]:
    """The sum [K] over each of `draws` resamples of the images; always the same ones, 100 in memory at a time."""
    count = len(statistics)
    rng = np.random.default_rng(20_231)
    for _ in range(draws // 100):
        yield from rng.multinomial(count, np.full(count, 1 / count), size=100).astype(np.float64) @ statistics


def _middle(values: list[float], count: int) -> Interval:
    """The expanded percentile interval (Hesterberg, 2015): with few images, wider by as much as Student's t asks for."""
    if not values or np.isnan(values).all():
        return float("nan"), float("nan")
    from scipy.stats import norm, t

    tail = 100 * float(norm.cdf(np.sqrt(count / (count - 1)) * t.ppf(0.025, count - 1)))
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap(summarise: Callable[[Statistics], float]) -> Callable[[Statistics], Interval]:
    """A 95 % interval by the expanded percentile bootstrap over images (Efron, 1979; Hesterberg, 2015), 1000 resamples."""

    def interval(statistics: Statistics) -> Interval:
        if len(statistics) < 2:  # one image says nothing of how images vary
            return float("nan"), float("nan")
        return _middle([summarise(total) for total in _resampled(statistics)], len(statistics))

    return interval


def paired_difference(metric: Metric, first: Statistics, second: Statistics) -> tuple[float, Interval]:
    """The value of `first` less that of `second` over the same images, and its bootstrap interval (paired by image)."""
    pairs = zip(_resampled(first), _resampled(second), strict=True) if len(first) > 1 else ()
    values = [metric.summarise(a) - metric.summarise(b) for a, b in pairs]
    return metric.value(first) - metric.value(second), _middle(values, len(first))


def binomial(statistics: Statistics) -> Interval:
    """The exact interval of a proportion (Clopper and Pearson, 1934), for statistics (hit, 1)."""
    from scipy.stats import binomtest

    if len(statistics) == 0:
        return float("nan"), float("nan")
    hits, total = statistics.sum(axis=0)
    found = binomtest(round(hits), round(total)).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def _mean(name: str, unit: str, score: Callable[[Tensor, Tensor], Tensor]) -> Metric:
    def measure(outputs: Tensor, target: Tensor) -> Tensor:
        values = score(outputs, target).double()
        return torch.stack([values, torch.ones_like(values)], dim=1)

    return Metric(name, unit, measure, ratio, bootstrap(ratio))


def accuracy() -> Metric:
    """Share of images whose largest logit is the label; logits [N, C], labels [N]."""

    def measure(outputs: Tensor, target: Tensor) -> Tensor:
        hits = (outputs.argmax(1) == target).double()
        return torch.stack([hits, torch.ones_like(hits)], dim=1)

    return Metric("accuracy", "share", measure, ratio, binomial)


def _valid(outputs: Tensor, target: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    return outputs.argmax(1).flatten(1), (target != ignore).flatten(1)


def pixel_accuracy(ignore: int = 255) -> Metric:
    """Share of labelled pixels that are right, over the whole set; logits [N, C, H, W], labels [N, H, W]."""

    def measure(outputs: Tensor, target: Tensor) -> Tensor:
        guess, valid = _valid(outputs, target, ignore)
        right = (guess == target.flatten(1)) & valid
        return torch.stack([right.sum(1).double(), valid.sum(1).double()], dim=1)

    return Metric("pixel accuracy", "share", measure, ratio, bootstrap(ratio))


def mean_iou(ignore: int = 255) -> Metric:
    """Intersection over union per class over the whole set, averaged over the classes that occur.

    Logits [N, C, H, W], labels [N, H, W]; pixels labelled `ignore` count nowhere, and a class of that id is not averaged;
    nor is a class that is neither in the labels nor in the predictions.
    """

    def measure(outputs: Tensor, target: Tensor) -> Tensor:
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        rows = []
        for guess, label in zip(outputs.argmax(1), target, strict=True):
            table = multiclass_confusion_matrix(guess, label, outputs.shape[1], ignore_index=ignore).double()
            inside = table.diagonal().clone()
            union = table.sum(0) + table.sum(1) - inside
            if 0 <= ignore < len(table):  # no label asks for that class: it is no member of the average
                inside[ignore] = union[ignore] = 0
            rows.append(torch.cat([inside, union]))
        return torch.stack(rows)

    def summarise(total: Statistics) -> float:
        inside, union = np.split(total, 2)
        return float((inside[union > 0] / union[union > 0]).mean()) if (union > 0).any() else float("nan")

    return Metric("mean IoU", "share", measure, summarise, bootstrap(summarise))


def psnr() -> Metric:
    """Peak signal-to-noise ratio in dB for [0, 1] images, per image, then averaged; outputs clamped, at most 100 dB."""

    def score(outputs: Tensor, target: Tensor) -> Tensor:
        from torchmetrics.functional.image import peak_signal_noise_ratio

        images = outputs.float().clamp(0, 1)
        values = [
            peak_signal_noise_ratio(image, wanted, data_range=1.0) for image, wanted in zip(images, target.float(), strict=True)
        ]
        return torch.stack(values).clamp(max=100)

    return _mean("PSNR", "dB", score)


def ssim() -> Metric:
    """Structural similarity (Wang et al., 2004), Gaussian window of sigma 1.5, per image, then averaged.

    Counted where the window fits into the image, as in the paper and in scikit-image; ValueError below 11 x 11 pixels.
    """

    def score(outputs: Tensor, target: Tensor) -> Tensor:
        from torchmetrics.functional.image import structural_similarity_index_measure

        height, width = target.shape[-2:]
        if min(height, width) < 11:
            raise ValueError(f"SSIM: expected images of at least 11 x 11 pixels, got {height} x {width}")
        images, wanted = outputs.float().clamp(0, 1), target.float()
        _, full = structural_similarity_index_measure(images, wanted, data_range=1.0, reduction="none", return_full_image=True)
        return torch.as_tensor(full)[..., 5:-5, 5:-5].flatten(1).mean(1)  # the edges depend on torchmetrics' version

    return _mean("SSIM", "1", score)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Fréchet distance of two Gaussians fitted to feature rows [N, D], [M, D] (Heusel et al., 2017).

    In float64, with unbiased covariances.
    """
    if first.dim() != 2 or second.dim() != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ValueError(f"expected two feature matrices [N, D] with N >= 2, got {list(first.shape)} and {list(second.shape)}")
    a, b = first.double(), second.double()
    ca, cb = (torch.cov(x.T).reshape(x.shape[1], x.shape[1]) for x in (a, b))
    return frechet_of_moments(a.mean(0), ca, b.mean(0), cb)


def frechet_of_moments(first: Tensor, first_covariance: Tensor, second: Tensor, second_covariance: Tensor) -> float:
    """The same of Gaussians given by mean [D] and covariance [D, D], in float64.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), negative eigenvalues cut to 0.
    """
    a, b, ca, cb = (x.double() for x in (first, second, first_covariance, second_covariance))
    values, vectors = torch.linalg.eigh(ca)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cb @ root).clamp(min=0).sqrt().sum()
    return float((a - b).square().sum() + ca.trace() + cb.trace() - 2 * cross)
