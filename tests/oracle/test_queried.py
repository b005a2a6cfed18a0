"""Queried: what is counted, kept, refused and noticed, of local targets; the gaps by hand."""

import sqlite3
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import Gain, Linear2, PixelSegmenter, photos

import robustrestore as rr
from robustrestore import oracle


class Tally:
    """A target that counts what it is shown; `shift` is what a changed target adds."""

    about = "tally"

    def __init__(self, batch: int = 4, fails: int = 10**9) -> None:
        self.batch, self.fails, self.shown, self.shift = batch, fails, 0, 0.0

    def ask(self, images: Tensor, sending: oracle.queried.Sending) -> Tensor:
        sending(len(images))
        if self.shown + len(images) > self.fails:
            raise ConnectionError("gone")
        self.shown += len(images)
        return images.flatten(1)[:, :3] + self.shift


def test_15_the_oracle_exposes_neither_weights_nor_gradients_of_the_target() -> None:
    model = Linear2(size=6).train()
    target = oracle.Queried(model)
    assert list(target.parameters()) == list(target.buffers()) == []
    assert target.state_dict() == {}
    assert [type(part) for part in target.modules()] == [oracle.Queried]
    images = torch.rand(3, 3, 6, 6, requires_grad=True)
    with torch.enable_grad():
        answers = target(images)
    assert not answers.requires_grad
    assert torch.allclose(answers, model(images).detach())
    assert model.training
    assert model.weight.grad is None
    with pytest.raises((RuntimeError, ValueError), match=r"straight_through|gradient"):
        rr.attacks.PGD(rr.Linf(0.1), steps=1)(
            target, images.detach(), rr.tasks.Classification().untargeted(torch.zeros(3, dtype=torch.long))
        )


def test_15_a_function_without_parameters_is_a_target() -> None:
    target = oracle.Queried(lambda images: images.flatten(1)[:, :2])
    assert target.query(photos(2)).shape == (2, 2)
    assert (target.sent, target.answered) == (2, 2)


def test_each_image_is_paid_once_also_in_later_runs_and_in_any_order(tmp_path: Path) -> None:
    source, images = Tally(), photos(6)
    target = oracle.Queried(source, cache=tmp_path / "answers.db")
    first = target(images[[0, 1, 1, 2, 0]])
    assert source.shown == target.sent == target.answered == 3
    again = Tally()
    second = oracle.Queried(again, cache=tmp_path / "answers.db")
    assert torch.equal(second(images[[2, 1, 0]]), first[[3, 1, 0]])
    assert again.shown == 0
    assert torch.equal(second(images[:5].double())[:3], first[[0, 1, 3]])  # float32 is the key
    assert (again.shown, second.sent) == (2, 5)
    assert torch.equal(second(images[:0]), torch.empty(0))


def test_a_failure_keeps_what_was_answered_and_counts_what_was_sent(tmp_path: Path) -> None:
    source = Tally(batch=2, fails=4)
    target = oracle.Queried(source, cache=tmp_path / "answers.db")
    with pytest.raises(ConnectionError):
        target(photos(7))
    assert (target.answered, target.sent) == (4, 6)
    source.fails = 100
    target(photos(7))
    assert (source.shown, target.answered, target.sent) == (7, 7, 9)


def test_the_budget_is_never_passed_and_holds_over_runs(tmp_path: Path) -> None:
    for expected in (4, 4):
        source = Tally(batch=2)
        target = oracle.Queried(source, cache=tmp_path / "answers.db", budget=5)
        with pytest.raises(oracle.OverBudget, match=r"at most 5, got 4 sent and 2 more"):
            target(photos(7))
        assert (target.sent, target.left) == (expected, 1)
    assert source.shown == 0  # the second run had nothing left to spend
    assert target(photos(7)[:4]).shape == (4, 3)  # what is paid for is still there


def test_a_changed_answer_is_noticed_kept_and_told(tmp_path: Path) -> None:
    source = Tally()
    target = oracle.Queried(source, cache=tmp_path / "answers.db")
    before = target(photos(5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert target.recheck(photos(5)) == []
    source.shift = 0.5
    with pytest.warns(UserWarning, match=r"5 answers of 5 changed, by up to 0\.5"):
        found = target.recheck(photos(5))
    assert [round(one.distance, 5) for one in found] == [0.5] * 5
    assert torch.equal(target(photos(5)), before)
    assert target.sent == 15
    later = oracle.Queried(Tally(), cache=tmp_path / "answers.db")
    assert later.changes == found


def test_a_cache_belongs_to_one_target_and_tier(tmp_path: Path) -> None:
    place = tmp_path / "answers.db"
    oracle.Queried(Gain(0.5), oracle.Images(), place)(photos())
    oracle.Queried(Gain(0.5), oracle.Images(), place)
    with pytest.raises(ValueError, match="of another"):
        oracle.Queried(Gain(0.6), oracle.Images(), place)
    with pytest.raises(ValueError, match="tier: Images"):
        oracle.Queried(Gain(0.5), oracle.Logits(), place)
    named = oracle.Queried(Gain(0.5), oracle.Images(), tmp_path / "named.db", name="the shop's model")
    named(photos())
    assert oracle.Queried(Gain(0.6), oracle.Images(), tmp_path / "named.db", name="the shop's model").answered == 2
    (tmp_path / "other.db").write_text("no database at all, but long enough to look like one" * 9)
    with pytest.raises(ValueError, match="expected a file of answers"):
        oracle.Queried(Gain(0.5), oracle.Images(), tmp_path / "other.db")


def test_a_transaction_that_was_cut_off_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    target = oracle.Queried(Tally(), cache=tmp_path / "answers.db")
    target(photos(2))
    other = sqlite3.connect(tmp_path / "answers.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM answers")
    other.close()  # without a commit
    assert target.answered == 2


@pytest.mark.parametrize(
    ("tier", "answers", "said"),
    [
        (oracle.Logits(), torch.zeros(2, 3, dtype=torch.long), "expected logits"),
        (oracle.Logits(), torch.full((2, 3), float("nan")), "NaN"),
        (oracle.Logits(), torch.zeros(3, 3), "one for each of 2"),
        (oracle.Logits(), "cat", "expected numbers"),
        (oracle.Probabilities(), torch.ones(2, 3), "are they logits"),
        (oracle.Labels(), torch.zeros(2, 3), "whole labels"),
        (oracle.Labels(), torch.tensor([0, -1]), "whole labels"),
        (oracle.Images(), torch.zeros(2, 3), "expected images"),
    ],
    ids=str,
)
def test_answers_of_another_tier_are_refused(tier: oracle.Tier, answers: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        oracle.Queried(lambda images: answers, tier)(photos(2))


def test_label_maps_and_images_are_answers_too() -> None:
    images = photos(2)
    model = PixelSegmenter()
    maps = oracle.Queried(lambda x: model(x).argmax(1), oracle.Labels())(images)
    assert torch.equal(maps, model(images).argmax(1))
    assert maps.dtype == torch.int64
    assert torch.allclose(oracle.Queried(Gain(0.5), oracle.Images())(images), images / 2)


def test_a_smoothed_target_is_certified_by_queries_and_its_killed_run_goes_on(tmp_path: Path) -> None:
    """The base model's print does not move with the queries sent, nor with the budget."""
    shown: list[int] = []
    model = Linear2(size=6)
    model.register_forward_hook(lambda module, inputs, outputs: shown.append(len(outputs)))
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    for budget in (1000, 2000):
        smoothed = rr.certify.SmoothedClassifier(oracle.Queried(model, budget=budget), rr.certify.Gaussian(0.1))
        found = smoothed.certify(images, n0=5, n=40, folder=tmp_path)
        assert sum(shown) == 90
    assert len({one.model for one in found}) == 1


def test_gaps_by_hand() -> None:
    task = rr.tasks.Classification()
    told, said = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[2.0, 0.0, 2.0]])
    assert float(oracle.L1Gap()(said, told, oracle.Logits(), task)) == pytest.approx(4.0)
    # centred: (-1, 1, 0) and (2/3, -4/3, 2/3)
    assert float(oracle.CentredL1Gap()(said, told, oracle.Logits(), task)) == pytest.approx(5 / 3 + 7 / 3 + 2 / 3)
    p, q = told.softmax(1), said.softmax(1)
    assert float(oracle.KLGap()(said, told, oracle.Logits(), task)) == pytest.approx(float((p * (p / q).log()).sum()))
    assert float(oracle.LabelGap()(said, told, oracle.Logits(), task)) == pytest.approx(float(-q.log()[0, 1]))
    with pytest.raises(TypeError, match="LabelGap"):
        oracle.L1Gap()(said, torch.tensor([1]), oracle.Labels(), task)
    with pytest.raises(ValueError, match="like the answers"):
        oracle.L1Gap()(said, told[:, :2], oracle.Logits(), task)


def test_probabilities_fix_logits_up_to_a_shift_and_the_centred_gap_does_not_see_it() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    gap, task = oracle.Probabilities().gap(), rr.tasks.Classification()
    shifted = logits + torch.arange(4.0)[:, None]
    assert float(gap(shifted, logits.softmax(1), oracle.Probabilities(), task).max()) < 1e-4
    assert float(oracle.L1Gap()(shifted, logits.softmax(1), oracle.Probabilities(), task).max()) > 1


def test_maps_are_summed_over_classes_and_averaged_over_pixels() -> None:
    told = torch.zeros(1, 2, 3, 4)
    said = told.clone()
    said[0, 0, 0, 0], said[0, 1, 2, 3] = 6.0, -6.0
    assert float(oracle.L1Gap()(said, told, oracle.Logits(), rr.tasks.Segmentation())) == pytest.approx(1.0)


@pytest.mark.parametrize("wrong", [{"budget": 0}, {"batch": 0}, {"budget": True}])
def test_settings_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="whole number"):
        oracle.Queried(nn.Identity(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Endpoint"):
        oracle.Queried("http://localhost")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Probabilities"):
        oracle.Queried(nn.Identity(), "labels")  # type: ignore[arg-type]


class Session:
    """A model behind what nobody can look into; its `told_apart_by` says which one it is."""

    def __init__(self, version: int) -> None:
        self.version, self.session = version, iter(())

    def told_apart_by(self) -> str:
        return f"version {self.version}"

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2]


def test_what_cannot_be_looked_into_is_told_apart_by_what_it_says(tmp_path: Path) -> None:
    told = {version: oracle.Queried(Session(version)).told_apart_by() for version in (1, 2)}
    assert told[1] != told[2]
    assert told[1] == oracle.Queried(Session(1), budget=3).told_apart_by()
    assert told[1] != oracle.Queried(Session(1), oracle.Probabilities()).told_apart_by()
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    first = rr.certify.SmoothedClassifier(Session(1), rr.certify.Gaussian(0.1))
    before = [one.row() for one in first.certify(images, n0=5, n=40, folder=tmp_path)]
    again = rr.certify.SmoothedClassifier(Session(1), rr.certify.Gaussian(0.1))
    assert [one.row() for one in again.certify(images, n0=5, n=40, folder=tmp_path)] == before
    with pytest.raises(ValueError, match=r"differs in .*model"):
        rr.certify.SmoothedClassifier(Session(2), rr.certify.Gaussian(0.1)).certify(images, n0=5, n=40, folder=tmp_path)
