"""SmoothedClassifier on models whose true radius is known; attacks inside a radius never win."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from toys_certify import Line, Recorder, images_of

import robustrestore as rr
from robustrestore import certify
from robustrestore.certify import bounds


class Wavy(nn.Module):
    """A small fixed network with three classes whose boundaries bend."""

    def __init__(self) -> None:
        super().__init__()
        own = torch.Generator().manual_seed(4)
        self.one = nn.Parameter(torch.randn(16, 24, generator=own) * 0.6)
        self.two = nn.Parameter(torch.randn(24, 3, generator=own))

    def forward(self, images: Tensor) -> Tensor:
        return torch.sin(images.flatten(1) @ self.one) @ self.two


def test_02_linear_model_is_never_promised_more_than_its_distance() -> None:
    """10^4 trials on one count each: the radius passes the true distance no more often than alpha, and nears it with n."""
    trials, alpha, sigma = 10_000, 0.01, 0.5
    rng = np.random.default_rng(0)
    for n in (100, 1000, 100_000):
        distance = rng.uniform(0.05, 1.0, trials)
        k = rng.binomial(n, stats.norm.cdf(distance / sigma))
        radius = certify.Gaussian(sigma).radius(bounds.lower(k, n, alpha), "l2", 16)
        wrong = int((radius > distance).sum())
        assert stats.binomtest(wrong, trials, alpha, alternative="greater").pvalue > 1e-3
    assert np.median(radius / distance) > 0.97


def test_02_end_to_end_on_a_linear_model() -> None:
    model, images = Line(), images_of(40)
    found = certify.SmoothedClassifier(model, certify.Gaussian(0.3)).certify(images, n0=50, n=4000, alpha=0.001)
    exact, labels = model.distance(images), model(images).argmax(1)
    for certificate, far, label in zip(found, exact.tolist(), labels.tolist(), strict=True):
        if not certificate.abstained:
            assert certificate.prediction == label
            assert certificate.radius["l2"] <= far
            assert certificate.radius["l2"] > 0.7 * far - 0.05 or far > 2.4 * 0.3
    assert sum(c.abstained for c in found) < 10


@pytest.mark.parametrize("noise", [certify.Laplace(0.2), certify.Uniform(0.5), certify.HyperbolicSecant(0.15)], ids=repr)
def test_02_threshold_of_one_value(noise: certify.Noise) -> None:
    """One pixel against 0.5: the true l1 radius is the distance to the threshold."""

    def model(images: Tensor) -> Tensor:
        low = images[:, 0, 0, 0] < 0.5
        return torch.stack([low, ~low], dim=1).float()

    images = torch.tensor([0.3, 0.4, 0.45]).view(3, 1, 1, 1)
    found = certify.SmoothedClassifier(model, noise).certify(images, n0=200, n=20_000)
    for certificate, far in zip(found, [0.2, 0.1, 0.05], strict=True):
        assert 0.6 * far < certificate.radius["l1"] <= far


def test_04_selection_and_estimation_see_different_draws() -> None:
    oracle = Recorder()
    certify.SmoothedClassifier(oracle, certify.Gaussian(0.3), chunk=10).certify(images_of(2), n0=30, n=200)
    seen = torch.cat(oracle.seen).flatten(1)
    assert len(seen) == 2 * 230
    assert len(seen.unique(dim=0)) == len(seen)


@pytest.mark.parametrize("noise", [certify.Gaussian(0.3), certify.SSN(0.5), certify.Gridded(certify.Laplace(0.2))], ids=repr)
def test_04_same_seed_same_counts_whatever_the_chunk(noise: certify.Noise) -> None:
    images = (images_of(2) * 255).round() / 255
    runs = [
        [c.row() for c in certify.SmoothedClassifier(Wavy(), noise, chunk).certify(images, n0=70, n=333, seed=5)]
        for chunk in (1, 7, 64, 100, None)
    ]
    assert all(run == runs[0] for run in runs)
    other = certify.SmoothedClassifier(Wavy(), noise).certify(images, n0=70, n=333, seed=6)
    assert [c.row() for c in other] != runs[0]


class _Averaged(nn.Module):
    """The smoothed model as an attacker sees it: mean probabilities over many fixed draws, with gradients."""

    def __init__(self, model: nn.Module, sigma: float, draws: int = 400) -> None:
        super().__init__()
        self.model, own = model, torch.Generator().manual_seed(99)
        self.register_buffer("noise", sigma * torch.randn(draws, 1, 4, 4, generator=own))

    def forward(self, images: Tensor) -> Tensor:
        noisy = images[:, None] + self.noise[None]
        scores = self.model(noisy.flatten(0, 1)).view(len(images), len(self.noise), -1)
        return F.softmax(4 * scores, dim=2).mean(1).log()


def _shares(model: nn.Module, images: Tensor, sigma: float, n: int = 20_000) -> Tensor:
    own = torch.Generator().manual_seed(7)
    noise = sigma * torch.randn(n, 1, 4, 4, generator=own)
    with torch.no_grad():
        return torch.stack([F.one_hot(model(x + noise).argmax(1), 3).double().mean(0) for x in images])


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_05_attacks_inside_the_radius_never_win(norm: certify.Norm) -> None:
    model, sigma = Wavy(), 0.25
    images = images_of(16, seed=2) * 0.6 + 0.2
    found = certify.SmoothedClassifier(model, certify.Gaussian(sigma)).certify(images, n0=100, n=2000)
    outside = 0
    for k, certificate in enumerate(found):
        if certificate.abstained:
            continue
        radius, label = certificate.radius[norm], torch.tensor([certificate.selected])
        for factor in (1.0, 4.0):
            if norm == "l1":  # the vertices of the ball are its worst points
                steps = factor * radius * torch.cat([torch.eye(16), -torch.eye(16)]).view(-1, 1, 4, 4)
                moved = images[k] + steps
            else:
                threat = rr.L2(factor * radius) if norm == "l2" else rr.Linf(min(1.0, factor * radius))
                objective = rr.tasks.Classification().untargeted(label)
                moved = rr.attacks.PGD(threat, steps=15)(_Averaged(model, sigma), images[k : k + 1], objective)
            share = float(_shares(model, moved, sigma, 4000)[:, certificate.selected].min())
            if factor == 1.0:
                assert share > 0.5 - 3 * np.sqrt(0.25 / 4000)
            outside += factor > 1 and share < 0.45
    assert outside >= 3


def test_06_constant_model_reaches_the_ceiling_and_a_random_one_is_refused() -> None:
    def constant(images: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0, 0.0]]).expand(len(images), 3)

    (top,) = certify.SmoothedClassifier(constant, certify.Gaussian(0.25)).certify(images_of(1), n=1000)
    assert (top.prediction, round(top.radius["l2"] / 0.25, 2)) == (1, 2.46)

    def coin(images: Tensor) -> Tensor:
        return torch.rand(len(images), 2)

    found = certify.SmoothedClassifier(coin, certify.Gaussian(0.25)).certify(torch.zeros(300, 1, 2, 2), 10, 60, alpha=0.05)
    wrong = sum(not c.abstained for c in found)
    assert stats.binomtest(wrong, 300, 0.05, alternative="greater").pvalue > 1e-3
    assert all(c.radius["l2"] == 0 and "abstains" in c.statement() for c in found if c.abstained)


def test_07_normalisation_changes_no_radius() -> None:
    bare, images = Line(), images_of(3)
    mean, std = 0.4, 0.2

    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return bare(x * std + mean)

    wrapped = rr.Adapted(Inner(), mean=[mean], std=[std])
    pairs = [certify.SmoothedClassifier(m, certify.Gaussian(0.3)).certify(images, n0=20, n=1000) for m in (bare, wrapped)]
    for one, two in zip(*pairs, strict=True):
        assert abs(one.radius["l2"] - two.radius["l2"]) < 0.02


def test_looks_stop_early_spend_one_alpha_and_stay_sound() -> None:
    looks = certify.Looks([50, 200, 1000], radius=0.2)
    images = images_of(60)
    found = certify.SmoothedClassifier(Line(), certify.Gaussian(0.3)).certify(images, 20, 1000, looks=looks)
    assert {c.n for c in found} >= {200, 1000}
    assert all(c.level == pytest.approx(0.001 / 3) for c in found)
    assert all(c.radius["l2"] <= far for c, far in zip(found, Line().distance(images).tolist(), strict=True))
    stopped = [c for c in found if c.n < 1000]
    assert all(c.abstained or c.radius["l2"] >= 0.2 for c in stopped)
    with pytest.raises(ValueError, match="drawn at random"):
        certify.SmoothedClassifier(Line(), certify.DSSN(0.1)).certify(torch.zeros(1, 1, 4, 4), 20, 1000, looks=looks)
    with pytest.raises(ValueError, match="end at n"):
        certify.SmoothedClassifier(Line(), certify.Gaussian(0.3)).certify(images, 20, 999, looks=looks)


def test_killed_run_goes_on_and_other_settings_are_refused(tmp_path: Path) -> None:
    images = images_of(3)
    smoothed = certify.SmoothedClassifier(Line(), certify.Gaussian(0.3))
    whole = [c.row() for c in smoothed.certify(images, 20, 100, folder=tmp_path / "a")]

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        smoothed.certify(images, 20, 100, folder=tmp_path / "b", progress=stop)
    assert len(list((tmp_path / "b").glob("*.safetensors"))) == 2
    assert [c.row() for c in smoothed.certify(images, 20, 100, folder=tmp_path / "b")] == whole
    with pytest.raises(ValueError, match="differs in .*alpha"):
        smoothed.certify(images, 20, 100, alpha=0.01, folder=tmp_path / "b")
    with pytest.raises(ValueError, match="differs in .*model"):
        certify.SmoothedClassifier(Line(seed=2), certify.Gaussian(0.3)).certify(images, 20, 100, folder=tmp_path / "b")
    with pytest.raises(ValueError, match="differs in .*noise"):
        certify.SmoothedClassifier(Line(), certify.Gaussian(0.2)).certify(images, 20, 100, folder=tmp_path / "b")


def test_dssn_is_exact_for_every_8_bit_neighbour() -> None:
    """A table-like model on two pixels: each 8-bit image below the radius keeps its class; at it some image loses it."""

    def model(images: Tensor) -> Tensor:
        low = images[:, 0, 0, :].sum(1) < 0.7
        return torch.stack([low, ~low], dim=1).float()

    smoothed = certify.SmoothedClassifier(model, certify.DSSN(0.06, seed=1))
    image = torch.tensor([[[[80, 90]]]]) / 255
    (found,) = smoothed.certify(image)
    assert found.level == 0
    radius = found.radius["l1"] * 255
    moves = [(a, b) for a in range(-20, 21) for b in range(-20, 21)]
    moved = (torch.tensor([[80 + a, 90 + b] for a, b in moves]) / 255).view(-1, 1, 1, 2)
    labels = [p.prediction for p in smoothed.predict(moved)]
    near = [label for (a, b), label in zip(moves, labels, strict=True) if abs(a) + abs(b) < radius - 1e-9]
    assert radius > 3
    assert len(near) > 10
    assert set(near) == {found.prediction}
    assert set(labels) > {found.prediction}
    assert "no matter of chance" in found.statement("l1")


def test_predict_abstains_on_a_tie_and_needs_eleven_draws() -> None:
    line = certify.SmoothedClassifier(Line(), certify.Gaussian(0.01))
    image = images_of(1)
    with pytest.warns(UserWarning, match="always abstains"):
        assert line.predict(image, n=10, seed=0)[0].prediction is None
    assert line.predict(image, n=11, seed=0)[0].prediction == int(Line()(image).argmax())


def test_leaves_no_trace_and_says_what_is_wrong() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 2)).train()
    state, mean = torch.random.get_rng_state(), model[1].running_mean.clone()
    certify.SmoothedClassifier(model, certify.Gaussian(0.3)).certify(images_of(1), 20, 100)
    assert all(part.training for part in model.modules())
    assert torch.equal(mean, model[1].running_mean)
    assert torch.equal(state, torch.random.get_rng_state())
    with pytest.raises(ValueError, match="divide by 255"):
        certify.SmoothedClassifier(model, certify.Gaussian(0.3)).certify(255 * images_of(1))
    with pytest.raises(ValueError, match="NaN"):
        certify.SmoothedClassifier(lambda x: Wavy()(x) / 0, certify.Gaussian(0.3)).certify(images_of(1), 20, 100)
    with pytest.raises(TypeError, match="Noise such as"):
        certify.SmoothedClassifier(model, rr.L2(0.5)).certify(images_of(1))  # type: ignore[arg-type]


def test_pipelines_see_noise_outside_the_range() -> None:
    class Count(nn.Module):
        low = 1.0

        def forward(self, images: Tensor) -> Tensor:
            self.low = min(self.low, float(images.min()))
            return images.flatten(1)[:, :2]

    model = Count()
    certify.SmoothedClassifier(rr.DefendedPipeline(model), certify.Gaussian(0.5)).certify(images_of(1), 10, 50)
    assert model.low < 0
