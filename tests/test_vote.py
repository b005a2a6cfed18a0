"""Votes: known answers, exact gradients, seeds of their own for each run, and a pipeline like any other."""

import math

import pytest
import torch
from torch import Tensor, nn
from toys import Linear2, PixelSegmenter, photos
from toys_diffusion import Convolved, GaussianPrior, Oracle

import robustrestore as rr
from robustrestore import diffusion
from robustrestore.purifiers import Blur, Diffusion, Jpeg, Rounds

ANSWERS = [torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.5, 0.4]]), torch.tensor([[0.0, 0.3, 0.2]])]


def test_mean_vote_is_the_mean_probability() -> None:
    found = rr.MeanVote(3)(ANSWERS)
    wanted = torch.stack([answer.softmax(1) for answer in ANSWERS]).mean(0)
    torch.testing.assert_close(found.exp(), wanted)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(1))
    assert int(found.argmax()) == 0  # the sure one wins
    shifted = rr.MeanVote(3)([answer + k for k, answer in enumerate(ANSWERS)])  # logits have no origin
    torch.testing.assert_close(shifted, found)


def test_majority_vote_counts_heads() -> None:
    found = rr.MajorityVote(3)(ANSWERS)
    assert int(found.argmax()) == 1  # two of three
    mean = torch.stack([answer.softmax(1) for answer in ANSWERS]).mean(0)
    torch.testing.assert_close(found.exp(), (torch.tensor([[1.0, 2.0, 0.0]]) + mean / 2) / 3.5)


def test_a_tie_goes_to_the_surer_one() -> None:
    assert int(rr.MajorityVote(2)(ANSWERS[:2]).argmax()) == 0
    assert int(rr.MajorityVote(2)(ANSWERS[1::-1]).argmax()) == 0


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 7)])
def test_majority_equals_counting_by_hand(shape: tuple[int, ...]) -> None:
    own = torch.Generator().manual_seed(0)
    answers = [torch.randn(shape, generator=own) for _ in range(9)]
    found = rr.MajorityVote(9)(answers).argmax(1)
    picks = torch.stack([answer.argmax(1) for answer in answers])
    counts = torch.stack([(picks == c).sum(0) for c in range(5)], dim=1)
    chosen = counts.gather(1, found.unsqueeze(1)).squeeze(1)
    assert torch.equal(chosen, counts.amax(1))
    sole = (counts == counts.amax(1, keepdim=True)).sum(1) == 1
    assert bool(sole.any())
    assert torch.equal(found[sole], counts.argmax(1)[sole])


@pytest.mark.parametrize("vote", [rr.MeanVote(3), rr.MajorityVote(3)], ids=repr)
def test_unanimous_and_extreme_answers_stay_finite(vote: rr.Vote) -> None:
    answers = [torch.tensor([[1e4, -1e4]])] * 3
    assert bool(vote(answers).isfinite().all())
    assert int(vote(answers).argmax()) == 0
    half = vote([answer.half() for answer in ANSWERS])
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), vote(ANSWERS), atol=2e-3, rtol=0)


def test_gradients() -> None:
    leaves = [answer.double().requires_grad_() for answer in ANSWERS]
    assert torch.autograd.gradcheck(lambda *answers: rr.MeanVote(3)(answers), leaves)
    weight = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    mean, majority = (
        torch.autograd.grad((weight * vote(leaves)).sum(), leaves) for vote in (rr.MeanVote(3), rr.MajorityVote(3))
    )
    for one, other in zip(mean, majority, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
        assert float(one.abs().max()) > 0.01


def _pipeline(vote: rr.Vote | None, seed: int | None = 1) -> rr.DefendedPipeline:
    return rr.DefendedPipeline(Linear2(size=6), [Diffusion(GaussianPrior(), steps=1, seed=seed), Blur(0.5)], vote)


def _images() -> Tensor:
    return photos(4, 6, 6)


def test_a_pipeline_votes_over_other_noise() -> None:
    images = photos(1, 64, 64)
    oracle = Oracle(images)
    model = nn.Sequential(PixelSegmenter())
    stage = Rounds(Diffusion(oracle, seed=3), [[0.1, 1], [0.1, 1]])
    rr.DefendedPipeline(model, [stage, Jpeg()], rr.MeanVote(4))(images)
    drawn = torch.stack([(shown - images).flatten() for shown in oracle.shown])
    assert len(drawn) == 8
    torch.testing.assert_close(torch.corrcoef(drawn), torch.eye(8), atol=0.05, rtol=0)


@pytest.mark.parametrize("kind", [rr.MeanVote, rr.MajorityVote])
def test_a_pipeline_votes_as_written_by_hand(kind: type[rr.Vote]) -> None:
    images, plain = _images(), _pipeline(None, seed=None)
    with rr.seeded(3):
        wanted = kind(5)([plain(images) for _ in range(5)])
    with rr.seeded(3):
        found = plain.replace(vote=kind(5))(images)
    assert torch.equal(found, wanted)


def test_a_vote_of_one_run_is_the_run() -> None:
    images, plain = _images(), _pipeline(None)
    torch.testing.assert_close(_pipeline(rr.MeanVote(1))(images), plain(images).log_softmax(1))
    assert torch.equal(_pipeline(rr.MajorityVote(6)).clean(images), plain.clean(images))
    assert torch.equal(_pipeline(rr.MajorityVote(6)).predict(images), plain.predict(images))
    bare = rr.DefendedPipeline(Linear2(), [], rr.MeanVote(3))  # nothing random: three equal runs
    torch.testing.assert_close(bare(images), bare.predict(images).log_softmax(1))


def test_a_seeded_vote_repeats_and_knows_no_batch() -> None:
    images, pipeline = _images(), _pipeline(rr.MeanVote(4))
    first = pipeline(images)
    torch.manual_seed(8)
    torch.testing.assert_close(pipeline(images)[2:3], first[2:3], atol=0, rtol=0)
    torch.testing.assert_close(pipeline(images[2:3]), first[2:3])
    assert not torch.equal(first, _pipeline(rr.MeanVote(4), seed=2)(images))


def test_the_gradient_of_a_mean_vote_is_exact() -> None:
    own = torch.Generator().manual_seed(0)
    leaf = (0.3 + 0.4 * torch.rand(2, 1, 4, 3, generator=own, dtype=torch.float64)).requires_grad_()
    stage = Diffusion(Convolved(1).double(), sigma=0.05, steps=3, sampler=diffusion.DDPM())
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double().requires_grad_(False)
    pipeline = rr.DefendedPipeline(model, stage, rr.MeanVote(3))
    assert torch.autograd.gradcheck(pipeline, leaf)


def test_a_majority_of_noisy_runs_is_surer_than_one() -> None:
    """One run is right with probability p; of n runs the majority, with that of the binomial."""

    class Wrong(rr.Purifier):
        def run(self, images: Tensor) -> Tensor:
            flip = torch.rand(len(images), 1, 1, 1) < 0.3
            return torch.where(flip, 1 - images, images)

    class Bright(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            mean = images.mean((1, 2, 3))
            return torch.stack([1 - mean, mean], dim=1) * 9

    images = torch.ones(4000, 1, 1, 1)
    with rr.seeded(0):
        right = rr.DefendedPipeline(Bright(), Wrong(), rr.MajorityVote(7))(images).argmax(1).double().mean()
    wanted = sum(math.comb(7, k) * 0.7**k * 0.3 ** (7 - k) for k in range(4, 8))
    assert float(right) == pytest.approx(wanted, abs=0.02)  # three standard errors are 0.016


def test_views_keep_the_vote() -> None:
    images, pipeline = _images(), _pipeline(rr.MeanVote(4))
    view = pipeline.straight_through()
    assert torch.equal(view(images), pipeline(images))
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(view(leaf)[:, 0].sum(), leaf)
    shares = torch.stack([row(images) for row in _rows(pipeline)]).double().softmax(2)
    # d log mean_k p_k / dx with dp/dx = p (1 - p) 2 w for two classes of logits +-w x
    weight = (shares[..., 0] * (1 - shares[..., 0])).mean(0) / shares[..., 0].mean(0)
    wanted = 2 * weight.view(-1, 1, 1, 1) * pipeline.model.weight.detach()
    torch.testing.assert_close(gradient.double(), wanted.double(), atol=1e-5, rtol=1e-4)


def _rows(pipeline: rr.DefendedPipeline) -> list[nn.Module]:
    """Each run as a pipeline of its own."""
    from robustrestore import runs

    first, blur = pipeline.stages
    stages = [first, *runs.repeated(first, "vote", pipeline.vote.runs - 1)]
    return [rr.DefendedPipeline(pipeline.model, [stage, blur]) for stage in stages]


def test_evaluate_takes_it_and_a_vote_is_part_of_what_was_measured() -> None:
    images = photos(12, 6, 6)
    target = Linear2()(images).argmax(1)
    pgd = rr.attacks.PGD(rr.Linf(2 / 255), steps=2)
    about = []
    for vote in (None, rr.MajorityVote(3), rr.MajorityVote(5)):
        report = rr.evaluate(_pipeline(vote), [(images, target)], rr.tasks.Classification(), [pgd])
        assert {row.view for row in report.rows} >= {"adaptive", "bpda", "oblivious"}
        about.append(report.about["defences"])
    assert [list(one) for one in about] == [["Diffusion > Blur"], *[["Diffusion > Blur > MajorityVote"]] * 2]
    assert about[1] != about[2]  # a folder of results does not mix them


def test_saved_loaded_moved_and_copied_it_answers_the_same(tmp_path) -> None:
    stage = Diffusion(diffusion.SigmaUNet(width=4), steps=1)
    pipeline = rr.DefendedPipeline(Linear2(), stage, rr.MeanVote(3))
    pipeline.save_pretrained(tmp_path)
    again = rr.DefendedPipeline.from_pretrained(tmp_path, {"model": Linear2()})
    assert again.vote.runs == 3
    torch.testing.assert_close(again(_images()), pipeline(_images()))
    assert set(pipeline.state_dict()) == set(pipeline.replace(vote=None).state_dict())
    torch.testing.assert_close(again.double()(_images().double()).float(), pipeline(_images()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("runs", [0, True, 1.5])
def test_wrong_runs(runs: object) -> None:
    with pytest.raises(ValueError, match=f"runs: expected a whole number >= 1, got {runs}"):
        rr.MeanVote(runs)


def test_wrong_answers() -> None:
    for answers in ([torch.ones(3)], [torch.ones(2, 1)], [torch.ones(2, 3), torch.ones(2, 4)]):
        with pytest.raises(ValueError, match=r"answers: expected class scores \[N, C, ...\]"):
            rr.MeanVote(2)(answers)
    with pytest.raises(TypeError, match=r"vote: expected a vote such as rr.MeanVote\(runs=10\), got int"):
        rr.DefendedPipeline(Linear2(), [], 10)
