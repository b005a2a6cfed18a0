"""What every smoothed model shares: prints, folders, evaluation mode, chunks; models that DSSN must refuse; wrong numbers."""

import functools
import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys_certify import Line, Recorder, images_of

from robustrestore import certify
from robustrestore.certify.stream import ChunkSize


class Caching(nn.Module):
    """A model that keeps what it made for the first image."""

    table: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.line = Line()

    def forward(self, images: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.ones(2)
        return self.line(images)


def test_a_run_has_one_fingerprint_taken_before_it(tmp_path: Path) -> None:
    images = images_of(2)
    batches = [(images[:1], torch.zeros(1)), (images[1:], torch.zeros(1))]
    for _ in range(2):  # the second time in a new process, so to speak
        model = Caching()
        report = certify.measure_classifier(certify.SmoothedClassifier(model, certify.Gaussian(0.3)), batches, (5, 20), 0.1)
        again = certify.measure_classifier(
            certify.SmoothedClassifier(Caching(), certify.Gaussian(0.3)), batches, (5, 20), 0.1, folder=tmp_path
        )
        assert again.about["model"] == report.about["model"]
    told = json.loads((tmp_path / "part-000001" / "about.json").read_text())
    assert told["model"] == report.about["model"]


def test_a_folder_is_refused_where_models_cannot_be_told_apart(tmp_path: Path) -> None:
    class Session:
        def __init__(self) -> None:
            self.steps = iter(range(10**6))

        def __call__(self, images: Tensor) -> Tensor:
            return Line()(images)

    smoothed = certify.SmoothedClassifier(Session(), certify.Gaussian(0.3))
    assert len(smoothed.certify(images_of(1), 5, 20, 0.1)) == 1
    with pytest.raises(ValueError, match="acts through builtins.range_iterator"):
        smoothed.certify(images_of(1), 5, 20, 0.1, folder=tmp_path)
    wrapped = [functools.partial(lambda net, images: net(images), Line(seed=k)) for k in (1, 2)]
    certify.SmoothedClassifier(wrapped[0], certify.Gaussian(0.3)).certify(images_of(1), 5, 20, 0.1, folder=tmp_path)
    with pytest.raises(ValueError, match="differs in .*model"):
        certify.SmoothedClassifier(wrapped[1], certify.Gaussian(0.3)).certify(images_of(1), 5, 20, 0.1, folder=tmp_path)


class Sometimes(nn.Module):
    """Random, but for the first `calm` calls; from PyTorch's generator or one of its own."""

    def __init__(self, own: torch.Generator | None = None, calm: int = 0) -> None:
        super().__init__()
        self.own, self.calm, self.calls = own, calm, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= self.calm:
            return torch.tensor([[0.0, 1.0]]).expand(len(images), 2)
        return torch.rand(len(images), 2, generator=self.own)


@pytest.mark.parametrize(
    "model", [Sometimes(), Sometimes(calm=2), Sometimes(torch.Generator().manual_seed(0))], ids=["plain", "later", "own"]
)
def test_dssn_refuses_a_model_that_draws(model: Sometimes) -> None:
    """Its certificate has no chance in it: a coin that fell on one side for these draws would be certified for good."""
    smoothed = certify.SmoothedClassifier(model, certify.DSSN(0.1), chunk=20)
    for ask in (smoothed.certify, smoothed.predict):
        model.calls = 0
        with pytest.raises(ValueError, match="deterministic"):
            ask(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("seed", range(4))
def test_dssn_needs_the_gap_of_three_classes(seed: int) -> None:
    """Against every 8-bit neighbour, where a class's share alone would promise too much or too little."""
    own = torch.Generator().manual_seed(seed)
    one, two = torch.randn(2, 40, generator=own), torch.randn(40, 4, generator=own)

    def model(images: Tensor) -> Tensor:
        return torch.sin(14 * images.flatten(1) @ one) @ two

    smoothed = certify.SmoothedClassifier(model, certify.DSSN(0.03, seed=seed), chunk=500)
    at = torch.randint(30, 220, (2,), generator=own)
    (found,) = smoothed.certify((at / 255).view(1, 1, 1, 2))
    shares = sorted(found.counts.values(), reverse=True)
    gap = (shares[0] - (shares[1] if len(shares) > 1 else 0)) / found.n
    assert found.radius["l1"] * 255 == pytest.approx(found.n * gap / 2, abs=1e-6) or found.abstained
    size = int(found.radius["l1"] * 255) + 1
    near = [
        (a, b) for a in range(-size, size + 1) for b in range(-size, size + 1) if abs(a) + abs(b) < 255 * found.radius["l1"]
    ]
    if near:
        moved = ((at + torch.tensor(near)) / 255).view(-1, 1, 1, 2)
        assert {p.prediction for p in smoothed.predict(moved)} == {found.prediction}


@pytest.mark.parametrize("way", ["closure", "partial", "object", "list"])
def test_modules_behind_functions_are_in_evaluation_mode(way: str) -> None:
    """With dropout and batch statistics of training, counts would depend on the chunk and the statistics would move."""
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 2)).train()
    ways = {
        "closure": lambda x: net(x),
        "partial": functools.partial(lambda part, x: part(x), net),
        "object": Behind(net),
        "list": lambda x, nets=(net,): nets[0](x),
    }
    before = net[1].running_mean.clone()
    runs = [certify.SmoothedClassifier(ways[way], certify.Gaussian(0.1), c).certify(images_of(1), 20, 200) for c in (8, 100)]
    plain = certify.SmoothedClassifier(net.eval(), certify.Gaussian(0.1), 50).certify(images_of(1), 20, 200)
    assert runs[0][0].counts == runs[1][0].counts == plain[0].counts
    assert torch.equal(before, net[1].running_mean)
    net.train()
    certify.SmoothedClassifier(ways[way], certify.Gaussian(0.1)).certify(images_of(1), 20, 20, 0.1)
    assert all(part.training for part in net.modules())


class Behind:
    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, images: Tensor) -> Tensor:
        return self.net(images)


def test_predict_and_certify_share_no_noise_under_one_seed() -> None:
    oracle = Recorder()
    smoothed = certify.SmoothedClassifier(oracle, certify.Gaussian(0.3), chunk=10)
    smoothed.certify(images_of(1), 20, 40, seed=0)
    smoothed.predict(images_of(1), n=60, seed=0)
    seen = torch.cat(oracle.seen).flatten(1)
    assert len(seen.unique(dim=0)) == len(seen) == 120


@pytest.mark.parametrize(
    ("noise", "domain"),
    [
        (certify.Gaussian(0.3), "every image at"),
        (certify.DSSN(0.3), "every 8-bit image at"),
        (certify.Gridded(certify.Gaussian(0.3)), "every 8-bit image at"),
        (certify.Gridded(certify.Gaussian(0.3), 15), "every image of values k / 15 at"),
    ],
    ids=repr,
)
def test_statements_name_the_images_that_they_are_about(noise: certify.Noise, domain: str) -> None:
    (found,) = certify.SmoothedClassifier(Line(), noise).certify(torch.zeros(1, 1, 4, 4), n0=20, n=100)
    assert domain in found.statement("l1")
    assert ("may abstain" in found.statement("l1")) == (noise.count is None)


def test_too_few_draws_warn_and_wrong_numbers_are_named() -> None:
    line = certify.SmoothedClassifier(Line(), certify.Gaussian(0.01))
    with pytest.warns(UserWarning, match="draw 11 or more"):
        assert line.predict(images_of(1), n=10)[0].prediction is None
    with pytest.warns(UserWarning, match="draw 10 or more"):
        assert line.certify(images_of(1), n=9)[0].abstained
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not line.certify(images_of(1), n=10)[0].abstained
        line.predict(images_of(1), n=11)
    for wrong in ({"n": 0}, {"n": 1e3}, {"n": True}, {"n0": 0}):
        with pytest.raises(ValueError, match="expected a whole number >= 1, got"):
            line.certify(images_of(1), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n: expected a whole number >= 1, got 0"):
        line.predict(images_of(1), n=0)
    with pytest.raises(ValueError, match="chunk: expected a whole number >= 1, got 7.5"):
        certify.SmoothedClassifier(Line(), certify.Gaussian(0.01), chunk=7.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0 .* got '0.25'"):
        certify.Gaussian("0.25")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError) as caught:
        certify.SmoothedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), certify.Gaussian(0.1)).certify(
            images_of(1).double(), 5, 20
        )
    assert "torch.float64 on cpu" in caught.value.__notes__[0]


def test_a_masked_class_does_no_harm() -> None:
    def masked(images: Tensor) -> Tensor:
        return torch.cat([Line()(images), torch.full((len(images), 1), -torch.inf)], dim=1)

    pair = [certify.SmoothedClassifier(m, certify.Gaussian(0.3)).certify(images_of(1), 20, 100)[0] for m in (masked, Line())]
    assert pair[0].counts == pair[1].counts
    with pytest.raises(ValueError, match="infinity"):
        certify.SmoothedClassifier(lambda x: -masked(x), certify.Gaussian(0.3)).certify(images_of(1), 20, 100)


def test_chunks_start_anew_for_images_of_another_shape() -> None:
    size = ChunkSize()
    size.start(torch.zeros(3, 32, 32))
    while size.growing:
        size.note(size.size, 1.0 / size.size)
    grown = size.size
    assert grown > 100
    size.start(torch.zeros(3, 32, 32))
    assert size.size == grown
    size.start(torch.zeros(3, 1080, 1920))
    assert size.size * 3 * 1080 * 1920 <= 3 * 2**21
    given = ChunkSize(7)
    given.start(torch.zeros(3, 1080, 1920))
    assert given.size == 7


def test_chunks_grow_while_they_pay_and_shrink_when_the_device_is_full() -> None:
    size = ChunkSize()
    size.start(torch.zeros(3, 32, 32))
    for rate in (1.0, 2.0, 2.05):
        for _ in range(2):
            size.note(size.size, size.size / rate)
    assert (size.size, size.growing) == (64, False)

    class Full(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if len(images) > 5:
                raise torch.cuda.OutOfMemoryError("full")
            return Line()(images)

    plain = certify.SmoothedClassifier(Line(), certify.Gaussian(0.3)).certify(images_of(1), 20, 100)
    tight = certify.SmoothedClassifier(Full(), certify.Gaussian(0.3), chunk=32).certify(images_of(1), 20, 100)
    assert plain[0].counts == tight[0].counts
