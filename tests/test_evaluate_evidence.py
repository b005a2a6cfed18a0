"""Numbers that would show nothing: attackers without a gradient, models that give NaN, a journal of another model."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import Linear2, PixelSegmenter, photos

import robustrestore as rr

PGD = rr.attacks.PGD(rr.Linf(4 / 255), steps=2)


class _Sure(nn.Module):
    """Linear2 with logits so large that the loss of some images is flat."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = Linear2(), scale

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) * self.scale


def _batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    images = photos(count, 6, 6)
    return [(part, Linear2()(part).argmax(1)) for part in images.split(2)]


def _warnings(report: rr.Report) -> list[str]:
    return [line for line in report.verdicts if line.startswith("No evidence")]


@pytest.mark.parametrize("inference", [False, True])
def test_an_attacker_without_gradient_is_no_evidence(inference: bool) -> None:
    pipeline = rr.DefendedPipeline(_Sure(1e6), [rr.purifiers.Blur(0.5)])
    with torch.inference_mode(inference):
        found = _warnings(rr.evaluate(pipeline, _batches(), rr.tasks.Classification(), [PGD]))
    seen = ["bare model", "Blur, oblivious", "Blur, bpda", "Blur, adaptive"]
    assert found == [f"No evidence: {who}, {PGD!r}: no gradient for 4 of 4 images." for who in seen]


def test_a_model_with_gradients_and_an_attack_that_found_some_get_no_such_line() -> None:
    pipeline = rr.DefendedPipeline(_Sure(1.0), [rr.purifiers.Blur(0.5)])
    assert _warnings(rr.evaluate(pipeline, _batches(), rr.tasks.Classification(), [PGD])) == []
    # at its own clean output the loss of a restorer is flat, and nowhere else
    clean = rr.DefendedPipeline(nn.Identity())
    batches = [(photos(), photos())]
    assert _warnings(rr.evaluate(clean, batches, rr.tasks.Restoration(), [PGD])) == []
    assert len(_warnings(rr.evaluate(clean, batches, rr.tasks.Restoration(), [rr.attacks.FGSM(rr.Linf(0.1))]))) == 1


def test_only_the_blind_view_is_named() -> None:
    class Hidden(rr.Purifier):
        def run(self, images: Tensor) -> Tensor:
            return images + 0 * images.round()

    pipeline = rr.DefendedPipeline(_Sure(1.0), [Hidden()])
    views = {"adaptive": lambda p: p, "flat": lambda p: lambda x: p(x) * 0 + 1}
    found = _warnings(rr.evaluate(pipeline, _batches(), rr.tasks.Classification(), [PGD], views=views))
    assert found == [f"No evidence: Hidden, flat, {PGD!r}: no gradient for 4 of 4 images."]


def test_a_finished_journal_keeps_its_warnings(tmp_path: Path) -> None:
    pipeline = rr.DefendedPipeline(_Sure(1e6))
    texts = [rr.evaluate(pipeline, _batches(), rr.tasks.Classification(), [PGD], folder=tmp_path).json() for _ in range(2)]
    assert "No evidence" in texts[0]
    assert texts[0] == texts[1]


def test_a_model_that_gives_nan_is_named_before_any_attack_runs() -> None:
    class Never(rr.Attack):
        def __init__(self, threat: rr.Threat) -> None:
            self.threat = threat

        def run(self, *given: object) -> Tensor:
            raise AssertionError("an attack was run")

    with pytest.raises(ValueError, match="outputs: expected finite values, got NaN"):
        rr.evaluate(rr.DefendedPipeline(_Sure(float("nan"))), _batches(), rr.tasks.Classification(), [Never(rr.Linf(0.1))])


def test_outputs_that_are_no_tensor_name_the_adapter() -> None:
    class Dict(PixelSegmenter):
        def forward(self, images: Tensor) -> Tensor:
            return {"out": super().forward(images)}  # type: ignore[return-value]

    with pytest.raises(TypeError, match=r"got dict: wrap the model, Adapted\("):
        rr.evaluate(rr.DefendedPipeline(Dict()), _batches(), rr.tasks.Segmentation(), [])


def test_a_journal_of_a_model_with_other_attributes_is_refused(tmp_path: Path) -> None:
    pipeline = rr.DefendedPipeline(_Sure(1.0))
    rr.evaluate(pipeline, _batches(), rr.tasks.Classification(), [PGD], folder=tmp_path)
    rr.evaluate(pipeline.train(), _batches(), rr.tasks.Classification(), [PGD], folder=tmp_path)
    pipeline.model.scale = 2.0  # neither in its weights nor in its repr
    with pytest.raises(ValueError, match=r"differs in \['attributes'\]"):
        rr.evaluate(pipeline, _batches(), rr.tasks.Classification(), [PGD], folder=tmp_path)


def test_a_model_that_works_on_its_input_in_place_is_named() -> None:
    class Shifting(_Sure):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.sub_(0.5).add_(0.5))

    for attacks in ([], [PGD]):
        with pytest.raises(ValueError, match="model: expected one that leaves its input as it is, got one that works on it"):
            rr.evaluate(rr.DefendedPipeline(Shifting(1.0)), _batches(), rr.tasks.Classification(), attacks)
