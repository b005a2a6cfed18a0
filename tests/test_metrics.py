"""Metrics against hand-made numbers, torchmetrics, scikit-image, SciPy and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from torch import Tensor
from torch.nn.functional import one_hot

from robustrestore import metrics
from robustrestore.metrics import Metric


def score(metric: Metric, outputs: Tensor, target: Tensor) -> float:
    return metric.value(metric.measure(outputs, target).numpy())


def logits(guess: Tensor, classes: int) -> Tensor:
    """Outputs whose largest entry along axis 1 is `guess`."""
    return one_hot(guess, classes).movedim(-1, 1).float() * 5 - 1


def maps(seed: int, classes: int = 6, absent: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    own = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (3, 13, 17), generator=own)
    noise = torch.randint(0, classes, target.shape, generator=own)
    guess = torch.where(torch.rand(target.shape, generator=own) < 0.6, target, noise)
    for number in absent:
        target[target == number] = (number + 1) % classes
        guess[guess == number] = (number + 2) % classes
    target[torch.rand(target.shape, generator=own) < 0.2] = 255
    return guess, target


HAND_GUESS = torch.tensor([[[0, 0], [1, 1]], [[1, 1], [0, 2]]])
HAND_TARGET = torch.tensor([[[0, 1], [1, 255]], [[1, 1], [255, 255]]])


def test_mean_iou_by_hand() -> None:
    # Class 0: 1 of 2. Class 1: 3 of 4 (two hits in the second image). Class 2: only guessed where nothing is labelled.
    found = score(metrics.mean_iou(), logits(HAND_GUESS, 4), HAND_TARGET)
    assert found == pytest.approx((1 / 2 + 3 / 4) / 2)


def test_mean_iou_is_no_mean_of_images() -> None:
    metric, outputs = metrics.mean_iou(), logits(HAND_GUESS, 4)
    each = [score(metric, outputs[k : k + 1], HAND_TARGET[k : k + 1]) for k in range(2)]
    assert each == pytest.approx([1 / 2, 1])
    assert np.mean(each) != pytest.approx(score(metric, outputs, HAND_TARGET))


def test_pixel_accuracy_by_hand() -> None:
    assert score(metrics.pixel_accuracy(), logits(HAND_GUESS, 4), HAND_TARGET) == pytest.approx(4 / 5)


@pytest.mark.parametrize("absent", [(), (2,), (0, 5)])
def test_segmentation_as_torchmetrics_has_it(absent: tuple[int, ...]) -> None:
    from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    guess, target = maps(len(absent), absent=absent)
    iou = MulticlassJaccardIndex(6, average="macro", ignore_index=255)(guess, target)
    share = MulticlassAccuracy(6, average="micro", ignore_index=255)(guess, target)
    assert score(metrics.mean_iou(), logits(guess, 6), target) == pytest.approx(float(iou), abs=1e-6)
    assert score(metrics.pixel_accuracy(), logits(guess, 6), target) == pytest.approx(float(share), abs=1e-6)


def test_another_label_to_ignore() -> None:
    guess, target = maps(9)
    moved = torch.where(target == 255, 3, torch.where(target == 3, 255, target))
    valid = (moved != 3) & (moved != 255)
    moved[moved == 255] = 3
    wanted = (guess == target)[valid].double().mean()
    assert score(metrics.pixel_accuracy(3), logits(guess, 6), moved) == pytest.approx(float(wanted))
    per_class = [((guess == k) & (moved == k) & valid).sum() / (((guess == k) | (moved == k)) & valid).sum() for k in range(6)]
    unions = [int((((guess == k) | (moved == k)) & valid).sum()) for k in range(6)]
    expected = np.mean([float(v) for v, union in zip(per_class, unions, strict=True) if union and v is not per_class[3]])
    assert score(metrics.mean_iou(3), logits(guess, 6), moved) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", [metrics.mean_iou(), metrics.pixel_accuracy()], ids=lambda m: m.name)
def test_sums_over_batches_equal_one_batch(metric: Metric) -> None:
    guess, target = maps(4)
    outputs = logits(guess, 6)
    parts = np.concatenate([metric.measure(outputs[k : k + 1], target[k : k + 1]).numpy() for k in range(3)])
    assert metric.value(parts) == pytest.approx(score(metric, outputs, target))


@pytest.mark.parametrize("metric", [metrics.mean_iou(), metrics.pixel_accuracy()], ids=lambda m: m.name)
def test_nothing_labelled_is_not_a_number(metric: Metric) -> None:
    statistics = metric.measure(logits(HAND_GUESS, 3), torch.full((2, 2, 2), 255)).numpy()
    assert math.isnan(metric.value(statistics))
    assert all(math.isnan(end) for end in metric.interval(statistics))


def test_accuracy() -> None:
    outputs, target = logits(torch.tensor([0, 1, 2, 2]), 3), torch.tensor([0, 1, 1, 2])
    assert score(metrics.accuracy(), outputs, target) == 0.75


def test_psnr_is_the_mean_over_images() -> None:
    target = torch.full((2, 3, 16, 16), 0.5)
    outputs = target + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert score(metrics.psnr(), outputs, target) == pytest.approx(30, abs=1e-3)  # 20 and 40; pooled it would be 23


def test_psnr_of_equal_images_is_capped_and_outputs_are_clamped() -> None:
    target = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    assert score(metrics.psnr(), target, target) == 100
    white = torch.ones(1, 3, 12, 12)
    assert score(metrics.psnr(), white * 3, white) == 100


def pairs(height: int, width: int) -> tuple[Tensor, Tensor]:
    own = torch.Generator().manual_seed(height)
    target = torch.nn.functional.avg_pool2d(torch.rand(3, 3, height, width, generator=own), 3, 1, 1)
    noise = torch.tensor([0.02, 0.1, 0.3]).view(3, 1, 1, 1)
    return target + noise * torch.randn(target.shape, generator=own), target


@pytest.mark.parametrize(("height", "width"), [(11, 11), (16, 40), (48, 32)])
def test_psnr_and_ssim_as_scikit_image_has_them(height: int, width: int) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1, "channel_axis": 0}
    outputs, target = pairs(height, width)
    for metric, reference in (
        (metrics.psnr(), lambda a, b: peak_signal_noise_ratio(a, b, data_range=1)),
        (metrics.ssim(), lambda a, b: structural_similarity(a, b, **settings)),
    ):
        found = metric.measure(outputs, target)
        wanted = [reference(a.numpy(), b.numpy()) for a, b in zip(target, outputs.clamp(0, 1), strict=True)]
        torch.testing.assert_close(found[:, 0], torch.tensor(wanted).double(), atol=1e-3, rtol=0)
        assert found[:, 1].tolist() == [1, 1, 1]


def test_ssim_of_equal_images_is_one_and_small_images_have_none() -> None:
    target = pairs(16, 16)[1]
    assert score(metrics.ssim(), target, target) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"SSIM: expected images of at least 11 x 11 pixels, got 10 x 16"):
        metrics.ssim().measure(target[..., :10, :], target[..., :10, :])


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (20, 20), (7, 20), (1, 1), (499, 1000)])
def test_binomial_interval(hits: int, count: int) -> None:
    statistics = np.stack([np.arange(count) < hits, np.ones(count)], axis=1).astype(float)
    low = stats.beta.ppf(0.025, hits, count - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, count - hits) if hits < count else 1.0
    assert metrics.binomial(statistics) == pytest.approx((low, high), abs=1e-9)
    assert metrics.accuracy().interval(statistics) == metrics.binomial(statistics)


def test_binomial_interval_without_a_hit_has_a_closed_form() -> None:
    statistics = np.stack([np.zeros(30), np.ones(30)], axis=1)
    assert metrics.binomial(statistics) == pytest.approx((0, 1 - 0.025 ** (1 / 30)))
    assert all(math.isnan(end) for end in metrics.binomial(np.zeros((0, 2))))


def scores(count: int = 200, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(30, 4, count)
    return np.stack([values, np.ones(count)], axis=1)


def test_bootstrap_interval_of_a_mean_is_that_of_the_textbook() -> None:
    statistics, interval = scores(), metrics.bootstrap(metrics.ratio)
    low, high = interval(statistics)
    mean, error = statistics[:, 0].mean(), statistics[:, 0].std() / math.sqrt(200)
    assert low < mean < high
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.25 * error)
    assert interval(statistics) == (low, high)


def test_bootstrap_contains_the_value_of_every_metric() -> None:
    guess, target = maps(2)
    for metric in (metrics.mean_iou(), metrics.pixel_accuracy()):
        statistics = metric.measure(logits(guess, 6), target).numpy()
        low, high = metric.interval(statistics)
        assert low < metric.value(statistics) < high


def test_bootstrap_of_too_little_says_nothing() -> None:
    for count in (0, 1):
        assert all(math.isnan(end) for end in metrics.bootstrap(metrics.ratio)(scores(count)))


def test_bootstrap_survives_images_without_labels() -> None:
    statistics = np.array([[0.0, 0.0]] * 5 + [[3.0, 4.0]])  # a third of the resamples has nothing to count
    assert metrics.bootstrap(metrics.ratio)(statistics) == (0.75, 0.75)


def test_paired_difference_knows_that_the_images_are_the_same() -> None:
    metric, first = metrics.psnr(), scores()
    second = first - np.array([[1.0, 0.0]])
    difference, interval = metrics.paired_difference(metric, first, second)
    assert difference == pytest.approx(1)
    assert interval == pytest.approx((1, 1))  # unpaired it would be as wide as both intervals
    assert metrics.paired_difference(metric, second, first)[0] == pytest.approx(-1)
    assert metrics.paired_difference(metric, first, first) == (0, (0, 0))


def test_paired_difference_of_noise_holds_zero_and_one_image_says_nothing() -> None:
    metric, first = metrics.psnr(), scores()
    noisy = first + np.stack([np.random.default_rng(5).normal(0, 1, 200), np.zeros(200)], axis=1)
    difference, (low, high) = metrics.paired_difference(metric, first, noisy)
    assert low < difference < high
    assert low < 0 < high
    difference, interval = metrics.paired_difference(metric, first[:1], first[1:2])
    assert difference == pytest.approx(first[0, 0] - first[1, 0])
    assert all(math.isnan(end) for end in interval)


def white(count: int, dims: int, seed: int) -> Tensor:
    """Rows whose mean is 0 and whose unbiased covariance is the identity, to rounding."""
    own = torch.Generator().manual_seed(seed)
    raw = torch.randn(count, dims, generator=own, dtype=torch.float64)
    return torch.linalg.qr(raw - raw.mean(0)).Q * math.sqrt(count - 1)


def test_frechet_distance_of_diagonal_gaussians() -> None:
    mean, first, second = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 2.0, 0.0])
    found = metrics.frechet_distance(white(40, 3, 0) * first, white(50, 3, 1) * second + mean)
    assert found == pytest.approx(5 + 4 + 0 + 0.25, abs=1e-6)  # |m|^2 + sum of (s1 - s2)^2


def test_frechet_distance_as_scipy_has_it() -> None:
    own = torch.Generator().manual_seed(3)
    a = torch.randn(60, 5, generator=own) @ torch.randn(5, 5, generator=own)
    b = torch.randn(80, 5, generator=own) @ torch.randn(5, 5, generator=own) + 0.3
    ca, cb = (np.cov(x.double().numpy(), rowvar=False) for x in (a, b))
    shift = (a.double().mean(0) - b.double().mean(0)).square().sum()
    wanted = float(shift) + np.trace(ca + cb - 2 * linalg.sqrtm(ca @ cb).real)
    assert metrics.frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)
    assert metrics.frechet_distance(b, a) == pytest.approx(wanted, rel=1e-6)


def test_frechet_distance_of_the_same_features_is_zero() -> None:
    features = torch.randn(10, 30, generator=torch.Generator().manual_seed(0))  # fewer rows than dimensions
    assert metrics.frechet_distance(features, features) == pytest.approx(0, abs=1e-5)
    assert metrics.frechet_distance(features[:, :1], features[:, :1] + 2) == pytest.approx(4, abs=1e-5)


@pytest.mark.parametrize(
    ("first", "second"), [((5, 3), (5, 4)), ((5,), (5,)), ((1, 3), (5, 3)), ((5, 3), (1, 3)), ((2, 5, 3), (2, 5, 3))]
)
def test_frechet_distance_needs_feature_matrices(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"two feature matrices \[N, D\] with N >= 2, got"):
        metrics.frechet_distance(torch.zeros(first), torch.zeros(second))


def test_an_ignored_class_that_is_a_valid_id_is_no_member_of_the_average() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 0, 0, 0] = logits[0, 1, 0, 1] = 1
    logits[0, 2, 1] = 1
    metric = metrics.mean_iou(ignore=0)
    found = metric.value(metric.measure(logits, torch.tensor([[[1, 1], [2, 2]]])).numpy())
    assert found == pytest.approx((0.5 + 1.0) / 2)
