"""Where a training runs: targets, trackers and precision are looked at before the first step; state that nobody saves."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from toys_training import classifier, colours, equal, state

import robustrestore as rr
from robustrestore.training.checkpoints import load_tree

PLAN = rr.Plan(steps=6, batch=6, optimiser=rr.AdamW(lr=0.02), average=None, every=2)
TASK = rr.tasks.Classification()


def test_targets_of_another_range_or_task_stop_before_the_first_step() -> None:
    images, labels = colours().tensors
    for network, task, target, told in (
        (nn.Conv2d(3, 3, 1), rr.tasks.Restoration(), 255 * images, r"target: expected values in \[0, 1\].*divide by 255"),
        (classifier(), TASK, labels + 3, "expected labels|label"),
        (nn.Conv2d(3, 1, 1), rr.tasks.Restoration(), images, "expected images like the target"),
    ):
        before = state(network)
        with pytest.raises(ValueError, match=told):
            rr.fit(rr.recipes.Plain(network, task), TensorDataset(images, target), PLAN, quiet=True)
        assert equal(before, state(network))
    pipeline = rr.DefendedPipeline(nn.Identity(), [rr.restorers.UNet(width=4)])
    attack = rr.attacks.PGD(rr.Linf(0.01), steps=1)
    recipe = rr.recipes.NAT(pipeline, rr.tasks.Restoration(), attack, part="stages.0")
    with pytest.raises(ValueError, match="divide by 255"):
        rr.fit(recipe, TensorDataset(images, 255 * images, images), PLAN, quiet=True)


def test_a_look_at_the_targets_changes_nothing() -> None:
    """Batch statistics, modes and generators: the same training as with a recipe whose task is hidden."""

    class Hidden(rr.Recipe):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        @property
        def trained(self) -> nn.Module:
            return self.network

        def run(self, batch: rr.Batch) -> dict[str, Tensor]:
            return {"loss": TASK.loss(self.network(batch.images), batch.truth()).mean()}

    shown, hidden = classifier(), classifier()
    rr.fit(rr.recipes.Plain(shown, TASK), colours(), PLAN, quiet=True)
    rr.fit(Hidden(hidden), colours(), PLAN, quiet=True)
    assert equal(state(shown), state(hidden))


def test_trackers_that_are_not_installed_or_unknown_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = classifier()
    before = state(network)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(ImportError, match="package of tensorboard to be installed"):
        rr.fit(rr.recipes.Plain(network, TASK), colours(), PLAN, folder=tmp_path, trackers=["tensorboard"], quiet=True)
    with pytest.raises(ValueError, match="expected names among .*tensorboard.*, got 'tensorbord'"):
        rr.fit(rr.recipes.Plain(network, TASK), colours(), PLAN, folder=tmp_path, trackers=["tensorbord"], quiet=True)
    with pytest.raises(TypeError, match=r"expected a list of names such as \['tensorboard'\], got 'tensorboard'"):
        rr.fit(rr.recipes.Plain(network, TASK), colours(), PLAN, folder=tmp_path, trackers="tensorboard", quiet=True)
    assert equal(before, state(network))


class _Types(nn.Module):
    """A classifier that notes the type that its convolution works in."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.seen = classifier(), set[torch.dtype]()

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen.add(self.network[0](images).dtype)
        out: Tensor = self.network(images)
        return out


def test_each_fit_of_a_process_has_its_own_precision() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    found = []
    for precision in ("bf16", "no", "bf16"):
        model = _Types()
        rr.fit(rr.recipes.Plain(model, TASK), colours(), PLAN.replace(precision=precision), quiet=True)
        found.append(model.seen)
    assert found == [{torch.bfloat16}, {torch.float32}, {torch.bfloat16}]
    AcceleratorState._reset_state()
    try:
        Accelerator(mixed_precision="bf16")  # a user's own, earlier in the same process
        model = _Types()
        rr.fit(rr.recipes.Plain(model, TASK), colours(), PLAN, quiet=True)
        assert model.seen == {torch.float32}
    finally:
        AcceleratorState._reset_state()


class _Counting(nn.Module):
    """Its answer depends on how often it was trained, which its state does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.network = classifier()
        self.register_buffer("count", torch.zeros(()), persistent=False)
        self.register_buffer("still", torch.ones(3), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.count = self.count + 1  # another tensor, as many modules write it
        out: Tensor = self.network(images) * (1 + 0.1 * self.count) * self.still
        return out


def test_buffers_that_no_state_holds_are_in_the_checkpoint(tmp_path: Path) -> None:
    whole, cut, fresh = _Counting(), _Counting(), _Counting()
    rr.fit(rr.recipes.Plain(whole, TASK), colours(), PLAN, lambda: {"trained": float(whole.count)}, quiet=True)
    stops = iter([False, True])

    def tired() -> dict[str, float]:
        if next(stops, False):
            raise KeyboardInterrupt
        return {"trained": float(cut.count)}

    with pytest.raises(KeyboardInterrupt):
        rr.fit(rr.recipes.Plain(cut, TASK), colours(), PLAN, tired, tmp_path / "cut", quiet=True)
    kept = load_tree(tmp_path / "cut" / "last.safetensors")
    assert kept["buffers"].keys() == {"model.count"}  # what did not change is not written
    assert (kept["step"], float(kept["buffers"]["model.count"])) == (2, 2.0)
    rest = lambda: {"trained": float(fresh.count)}  # noqa: E731
    rr.fit(rr.recipes.Plain(fresh, TASK), colours(), PLAN, rest, tmp_path / "cut", quiet=True)
    assert float(fresh.count) == 6
    assert equal(state(whole), state(fresh))


class _Alias(nn.Module):
    """Two modules that hold the same buffer, which no state has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.other = nn.Parameter(torch.ones(())), nn.Module()
        self.register_buffer("count", torch.zeros(()), persistent=False)
        self.other.register_buffer("count", self.count, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            self.count += 1
        return images * self.weight * (1 + 0.01 * self.other.count)


def test_buffers_that_two_modules_hold_stay_one(tmp_path: Path) -> None:
    data = [(torch.full((3, 4, 4), 0.25), torch.full((3, 4, 4), 0.5))] * 6
    whole, cut, fresh = _Alias(), _Alias(), _Alias()

    def run(model: _Alias, folder: str, stops: list[bool]) -> None:
        asked = iter(stops)

        def tired() -> dict[str, float]:
            if next(asked, False):
                raise KeyboardInterrupt
            return {"trained": float(model.count)}

        rr.fit(rr.recipes.Plain(model, rr.tasks.Restoration()), data, PLAN, tired, tmp_path / folder, quiet=True)

    run(whole, "whole", [])
    with pytest.raises(KeyboardInterrupt):
        run(cut, "cut", [False, True])
    run(fresh, "cut", [])
    assert fresh.other.count is fresh.count
    assert float(fresh.count) == float(whole.count) > 2
    assert torch.equal(whole.weight, fresh.weight)
