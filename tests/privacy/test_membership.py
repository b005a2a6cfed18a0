"""Membership inference on models whose leak is known: interpolated random labels, Gaussian scores, none at all."""

import json
import math
from pathlib import Path

import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from toys_certify import Line, images_of

import robustrestore as rr
from robustrestore import privacy

COUNT, CLASSES = 60, 4


class Interpolation:
    """Least squares to one-hot labels: with more pixels than images it knows each of them by heart."""

    def __init__(self, images: Tensor, labels: Tensor, scale: float = 5.0) -> None:
        rows = self.rows(images)
        self.weight = torch.linalg.pinv(rows) @ torch.nn.functional.one_hot(labels, CLASSES).double() * scale

    def rows(self, images: Tensor) -> Tensor:
        return images.flatten(1).double() - 0.5

    def __call__(self, images: Tensor) -> Tensor:
        return self.rows(images) @ self.weight


def people(count: int = COUNT, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Images with random labels: nothing but memory can know them."""
    own = torch.Generator().manual_seed(seed)
    return [(images_of(count, seed, size=12), torch.randint(0, CLASSES, (count,), generator=own))]


INSIDE, OUTSIDE = people(), people(seed=1)


class Told(privacy.MembershipAttack):
    """Scores that are known."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def score(self, pool: privacy.Pool, outputs: Tensor, ask: privacy.attacks.Ask) -> Tensor:
        return self.scores


def test_gaussian_scores_give_the_figures_of_theory() -> None:
    count = 3000
    own = torch.Generator().manual_seed(3)
    side = (torch.rand(count, 1, 2, 2, generator=own), torch.zeros(count, dtype=torch.long))
    other = (torch.rand(count, 1, 2, 2, generator=own), torch.zeros(count, dtype=torch.long))
    scores = torch.randn(2 * count, generator=own, dtype=torch.float64)
    scores[:count] += 2.0
    report = privacy.membership(lambda x: x.flatten(1), [side], [other], [Told(scores)])
    row = report.row("target", "Told")
    assert row.auc.value == pytest.approx(norm.cdf(2 / math.sqrt(2)), abs=0.01)
    assert row.accuracy.value == pytest.approx(norm.cdf(1.0), abs=0.02)
    assert row.tpr[0.01].value == pytest.approx(norm.cdf(2 - norm.isf(0.01)), abs=0.05)
    assert row.tpr[0.001].low == 0.0
    assert report.warnings == (
        "3000 non-members are too few for a false-positive rate of 0.1%: below 4380 the interval starts at 0 whatever the "
        "attack",
    )


def test_20_an_over_fitted_target_tells_and_a_constant_one_does_not() -> None:
    target = Interpolation(*INSIDE[0])
    nothing = torch.zeros(CLASSES)
    report = privacy.membership({"target": target, "constant": lambda x: nothing.expand(len(x), -1)}, INSIDE, OUTSIDE)
    right = float((target(OUTSIDE[0][0]).argmax(1) == OUTSIDE[0][1]).float().mean())
    gap = report.row("target", "Gap")
    assert [gap.accuracy.value, gap.auc.value] == pytest.approx([0.5 + (1 - right) / 2] * 2)
    assert gap.accuracy.value > 0.8
    for name in ("Confidence", "Entropy", "ModifiedEntropy"):
        row = report.row("target", name)
        assert row.auc.low > 0.8
        assert row.accuracy.low > 0.7
        assert report.row("constant", name).auc.value == 0.5
    assert "it tells members apart" in report.verdicts()[0]
    assert "no better than chance" in report.verdicts()[1]


def test_20_target_surrogate_and_smoothed_surrogate_side_by_side(tmp_path: Path) -> None:
    """A linear surrogate of as many queries as pixels is the target; one of few queries is not; overlap with members leaks."""
    target = Interpolation(*INSIDE[0])

    def surrogate(queries: Tensor) -> Interpolation:
        made = Interpolation(queries, torch.zeros(len(queries), dtype=torch.long))
        made.weight = torch.linalg.pinv(made.rows(queries)) @ target(queries)
        return made

    smoothed = privacy.VoteScores(
        rr.certify.SmoothedClassifier(surrogate(images_of(40, 7, 12)), rr.certify.Gaussian(0.5)), n=30
    )
    targets = {
        "target": target,
        "surrogate, 200 queries": surrogate(images_of(200, 7, 12)),
        "surrogate, 40 queries": surrogate(images_of(40, 7, 12)),
        "surrogate, members as queries": surrogate(INSIDE[0][0]),
        "smoothed surrogate, 40 queries": smoothed,
    }
    report = privacy.membership(targets, INSIDE, OUTSIDE, [privacy.Confidence()])
    found = {name: report.row(name, "Confidence").auc.value for name in targets}
    assert found["surrogate, 200 queries"] == pytest.approx(found["target"], abs=1e-6)
    assert found["surrogate, members as queries"] == pytest.approx(found["target"], abs=1e-6)
    assert found["surrogate, 40 queries"] < found["target"] - 0.1
    assert found["smoothed surrogate, 40 queries"] < found["target"] - 0.1
    report.save(tmp_path)
    assert json.loads((tmp_path / "membership.json").read_text())["about"]["members"] == COUNT
    text = (tmp_path / "membership.md").read_text()
    assert "TPR at 0.1% FPR" in text
    assert "provably" not in text


def test_labels_alone_fit_label_only_attacks() -> None:
    target = Interpolation(*INSIDE[0])

    def labels(images: Tensor) -> Tensor:
        return target(images).argmax(1)

    attacks = [privacy.Gap(), privacy.NoiseDistance(rr.certify.Gaussian(0.1), draws=10)]
    report = privacy.membership(labels, INSIDE, OUTSIDE, attacks)
    assert report.row("target", "NoiseDistance").auc.value >= report.row("target", "Gap").auc.value - 0.02
    assert [row.attack for row in privacy.membership(labels, INSIDE, OUTSIDE).rows] == ["Gap()"]
    with pytest.raises(ValueError, match=r"Confidence\(\): expected class scores"):
        privacy.membership(labels, INSIDE, OUTSIDE, [privacy.Confidence()])


def test_the_noise_distance_is_the_probability_of_the_label_under_noise() -> None:
    line, images = Line(), images_of(40)
    labels = torch.zeros(40, dtype=torch.long)
    pool = privacy.Pool(images, labels, torch.ones(40, dtype=torch.bool))
    attack = privacy.NoiseDistance(rr.certify.Gaussian(0.3), draws=400)
    found = attack.score(pool, line(images), privacy.attacks.asking(line))
    spread = 0.3 * float(line.weight.detach().norm())
    exact = torch.from_numpy(norm.cdf(line.score(images).detach().double().numpy() / spread))
    right = line(images).argmax(1) == 0
    assert torch.allclose(found[right], exact[right], atol=0.1)
    assert bool((found[~right] == -1 / 400).all())


def test_scores_by_hand() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]], dtype=torch.float64)
    pool = privacy.Pool(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool))
    ask = privacy.attacks.asking(lambda x: x)
    logits = p.log() + 3.0
    own, rest = torch.tensor([0.7, 0.25]).double(), [[0.2, 0.1], [0.25, 0.5]]
    assert torch.allclose(privacy.Confidence().score(pool, logits, ask), (own / (1 - own)).log())
    assert torch.allclose(privacy.Entropy().score(pool, logits, ask), -(-p * p.log()).sum(1).log())
    expected = [
        -math.log(-(1 - o) * math.log(o) - sum(q * math.log(1 - q) for q in other))
        for o, other in zip(own.tolist(), rest, strict=True)
    ]
    assert privacy.ModifiedEntropy().score(pool, logits, ask).tolist() == pytest.approx(expected)
    assert privacy.attacks.log_odds(logits, pool.labels).tolist() == pytest.approx([math.log(0.7 / 0.3), math.log(1 / 3)])
    sure = torch.tensor([[60.0, 0.0, -1.0]])
    assert float(privacy.attacks.log_odds(sure, torch.tensor([0]))) == pytest.approx(60 - math.log(1 + math.exp(-1)))


def test_lira_is_the_likelihood_ratio_of_two_gaussians() -> None:
    """Shadows whose phi is known: two-class models with logit difference z, so phi = z."""
    inside = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=torch.bool)
    values = torch.tensor([[3.0, -1.0], [5.0, 0.0], [1.0, 4.0], [0.0, 6.0]])
    shadows = [
        privacy.Shadow(lambda x, v=v: torch.stack([v, torch.zeros(2)], 1), mask) for v, mask in zip(values, inside, strict=True)
    ]
    pool = privacy.Pool(torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.long), torch.tensor([True, False]))
    own = torch.tensor([[3.5, 0.0], [1.0, 0.0]])
    found = privacy.LiRA(shadows).score(pool, own, lambda x: x)
    spread_in = math.sqrt((1 + 1 + 1 + 1) / 2)  # pooled over both images: squares 2 and 2, one degree of freedom each
    spread_out = math.sqrt((0.5 + 0.5) / 2)
    first = norm.logpdf(3.5, 4, spread_in) - norm.logpdf(3.5, 0.5, spread_out)
    second = norm.logpdf(1.0, 5, spread_in) - norm.logpdf(1.0, -0.5, spread_out)
    assert found.tolist() == pytest.approx([first, second])
    outer = [privacy.Shadow(one.model, torch.zeros(2, dtype=torch.bool)) for one in shadows]
    offline = privacy.LiRA(outer).score(pool, own, lambda x: x)
    mean, squares = values.mean(0), (values - values.mean(0)).square().sum()
    assert offline.tolist() == pytest.approx(((own[:, 0] - mean) / math.sqrt(float(squares) / 6)).tolist(), rel=1e-5)


def test_20_lira_finds_more_at_low_rates_than_confidence_where_images_differ_in_difficulty() -> None:
    """Phi of an image is its own offset, plus 3 inside, plus noise of 1; offsets spread by 6 hide that from one threshold."""
    own = torch.Generator().manual_seed(5)
    size = 400
    offsets, inside = 6 * torch.randn(size, generator=own), torch.arange(size) < size // 2
    images = torch.rand(size, 1, 2, 2, generator=own)

    def model(mask: Tensor) -> privacy.attacks.Model:
        phis = offsets + 3.0 * mask + torch.randn(size, generator=own)
        place = {bytes(image.numpy().tobytes()): k for k, image in enumerate(images)}
        return lambda x: torch.stack([phis[[place[i.numpy().tobytes()] for i in x]], torch.zeros(len(x))], 1)

    def train(places: Tensor) -> privacy.attacks.Model:
        return model(torch.zeros(size, dtype=torch.bool).scatter(0, places, True))

    shadows = privacy.train_shadows(train, size, 16)
    masks = torch.stack([shadow.inside for shadow in shadows])
    assert bool((masks.sum(0) == 8).all())
    labels = torch.zeros(size, dtype=torch.long)
    sides = [[(images[side], labels[side])] for side in (inside, ~inside)]
    report = privacy.membership(model(inside), *sides, [privacy.Confidence(), privacy.LiRA(shadows)])
    lira, plain = report.row("target", "LiRA"), report.row("target", "Confidence")
    assert lira.auc.value == pytest.approx(norm.cdf(3 / math.sqrt(2)), abs=0.03)
    assert plain.auc.value == pytest.approx(norm.cdf(3 / math.sqrt(2 * 37)), abs=0.06)
    assert lira.tpr[0.01].value > plain.tpr[0.01].value + 0.3


def test_misuse_is_refused() -> None:
    target = Interpolation(*INSIDE[0])
    with pytest.raises(ValueError, match=f"got {COUNT} on both sides"):
        privacy.membership(target, INSIDE, INSIDE)
    with pytest.raises(ValueError, match="four members"):
        privacy.membership(target, INSIDE, people(3, seed=2))
    with pytest.raises(TypeError, match=r"privacy\.Confidence"):
        privacy.membership(target, INSIDE, OUTSIDE, ["confidence"])  # type: ignore[list-item]
    with pytest.raises(LookupError, match="expected some for 'target'"):
        privacy.membership(target, INSIDE, OUTSIDE, {"surrogate": [privacy.Gap()]})
    everyone = privacy.LiRA([privacy.Shadow(target, torch.ones(2 * COUNT, dtype=torch.bool))] * 3)
    with pytest.raises(ValueError, match="two or more inside and outside"):
        privacy.membership(target, INSIDE, OUTSIDE, [everyone])
    with pytest.raises(ValueError, match="even number"):
        privacy.train_shadows(lambda places: target, 10, 3)
    report = privacy.membership(target, INSIDE, people(10, seed=2))
    assert any("not balanced" in warning for warning in report.warnings)
    with pytest.raises(LookupError, match="known"):
        report.row("target", "LiRA")
