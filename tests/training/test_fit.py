"""fit: repeats itself, takes up a killed run, validates, stops at NaN, and leaves everything else as it was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from toys_training import adversarial, classifier, colours, equal, state

import robustrestore as rr
from robustrestore.training.checkpoints import load_tree, save_tree
from robustrestore.training.config import Training
from robustrestore.weights import load_weights

PLAN = rr.Plan(steps=12, batch=6, optimiser=rr.AdamW(lr=0.02), average=0.9, every=4)
HERE = Path(__file__).parents[1]


class _Least(rr.Recipe):
    """Least squares of one weight on the images' mean: plain gradient descent has a closed form."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.start, self.line = start, nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.line.weight, start)

    @property
    def trained(self) -> nn.Module:
        return self.line

    def run(self, batch: rr.Batch) -> dict[str, Tensor]:
        found = self.line(batch.images.flatten(1).mean(1, keepdim=True))[:, 0]
        return {"loss": 0.5 * (found - batch.truth()).square().mean()}


def _line() -> TensorDataset:
    images = torch.full((4, 3, 2, 2), 0.5)
    return TensorDataset(images, torch.full((4,), 1.0))


def test_gradient_descent_in_closed_form() -> None:
    """w <- w - lr (0.5 w - 1) 0.5, from 0: w = 2 (1 - (1 - lr / 4)^k)."""
    for accumulate in (1, 2):
        recipe = _Least()
        flat = rr.SGD(lr=0.4, momentum=0.0, weight_decay=0.0, floor=1.0)
        plan = rr.Plan(steps=5, batch=4, optimiser=flat, average=None, clip=None, accumulate=accumulate, every=1)
        history = rr.fit(recipe, _line(), plan, quiet=True)
        assert recipe.line.weight.item() == pytest.approx(2 * (1 - 0.9**5), abs=1e-6)
        losses = [0.5 * (0.5 * 2 * (1 - 0.9**k) - 1) ** 2 for k in range(5)]
        assert [row["loss"] for row in history.rows] == pytest.approx(losses, abs=1e-6)


def test_clipping_bounds_the_step() -> None:
    recipe = _Least()
    flat = rr.SGD(lr=1.0, momentum=0.0, weight_decay=0.0, floor=1.0)
    rr.fit(recipe, _line(), rr.Plan(steps=1, batch=4, optimiser=flat, average=None, clip=0.125), quiet=True)
    assert recipe.line.weight.item() == pytest.approx(0.125, abs=1e-5)


def test_the_average_is_what_is_handed_back() -> None:
    """Decay min(0.5, (1 + k) / (10 + k)) over the closed form's iterates."""
    recipe = _Least()
    flat = rr.SGD(lr=0.4, momentum=0.0, weight_decay=0.0, floor=1.0)
    rr.fit(recipe, _line(), rr.Plan(steps=3, batch=4, optimiser=flat, average=0.5, clip=None), quiet=True)
    kept = 0.0
    for k in range(3):
        share = min(0.5, (1 + k) / (10 + k))
        kept = share * kept + (1 - share) * 2 * (1 - 0.9 ** (k + 1))
    assert recipe.line.weight.item() == pytest.approx(kept, abs=1e-6)


def test_it_learns_repeats_itself_and_keeps_the_best() -> None:
    task, found = rr.tasks.Classification(), []
    for _ in range(2):
        network = classifier()
        plan = rr.Plan(steps=60, batch=10, optimiser=rr.AdamW(lr=0.03), average=0.9)
        history = rr.fit(adversarial(network), colours(), plan, rr.Validation(network, colours(), task), quiet=True)
        found.append((state(network), history.json()))
    assert equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert history.best["accuracy"] == max(row["accuracy"] for row in history.validations) > 0.9
    assert rr.Validation(network, colours(), task)() == {"accuracy": history.best["accuracy"]}
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]


def test_modes_gradients_and_generators_are_left_as_found() -> None:
    network = classifier().eval()
    network[0].requires_grad_(False)
    recipe, before = adversarial(network), torch.random.get_rng_state()
    rr.fit(recipe, colours(), PLAN, quiet=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(part.training for part in network.modules())
    assert not network[0].weight.requires_grad
    assert network[5].weight.requires_grad
    assert all(weight.grad is None for weight in recipe.attack.__dict__.values() if isinstance(weight, Tensor))


def test_a_cut_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, cut = classifier(), classifier()
    history = rr.fit(adversarial(whole), colours(), PLAN, _validation(whole), tmp_path / "whole", quiet=True)

    class Tired(Exception):
        pass

    stops = iter([False, True])

    def tired() -> dict[str, float]:
        if next(stops, False):
            raise Tired
        return _validation(cut)()

    with pytest.raises(Tired):
        rr.fit(adversarial(cut), colours(), PLAN, tired, tmp_path / "cut", quiet=True)
    assert load_tree(tmp_path / "cut" / "last.safetensors")["step"] == 4
    fresh = classifier(seed=9)  # what it starts from no longer matters
    again = rr.fit(adversarial(fresh), colours(), PLAN, _validation(fresh), tmp_path / "cut", quiet=True)
    assert equal(state(whole), state(fresh))
    assert again.json() == history.json()
    finished = classifier(seed=8)
    rr.fit(adversarial(finished), colours(), PLAN, _validation(finished), tmp_path / "cut", quiet=True)
    assert equal(state(whole), state(finished))
    best = classifier(seed=7)
    load_weights(best, tmp_path / "cut" / "best.safetensors")
    assert equal(state(whole), state(best))
    assert (tmp_path / "cut" / "history.json").read_text(encoding="utf-8") == history.json()


def _validation(network: nn.Module) -> rr.Validation:
    return rr.Validation(network, colours(), rr.tasks.Classification())


KILLED = """
import sys, time
from toys_training import adversarial, classifier, colours
import robustrestore as rr
from pathlib import Path
from robustrestore.weights import fingerprint
network = classifier()
plan = rr.Plan(steps=40, batch=6, optimiser=rr.AdamW(lr=0.02), every=2)
rr.fit(adversarial(network), colours(), plan, folder=Path(sys.argv[1]), quiet=True)
print(fingerprint(network))
"""


def _run(folder: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], env=env, stdout=subprocess.PIPE, text=True)


def test_kill_9_in_the_middle_then_the_same_weights(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole").communicate(timeout=300)[0]
    killed = _run(tmp_path / "killed")
    last = tmp_path / "killed" / "last.safetensors"
    until = time.monotonic() + 200
    while not last.is_file() and time.monotonic() < until and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert 0 < load_tree(last)["step"] < 40
    assert _run(tmp_path / "killed").communicate(timeout=300)[0] == whole != ""


def test_another_training_in_the_folder_is_named(tmp_path: Path) -> None:
    rr.fit(adversarial(classifier()), colours(), PLAN, folder=tmp_path, quiet=True)
    with pytest.raises(ValueError, match=r"plan: .*steps=12.*steps=13"):
        rr.fit(adversarial(classifier()), colours(), PLAN.replace(steps=13), folder=tmp_path, quiet=True)
    with pytest.raises(ValueError, match="images: 30 there, 24 here"):
        rr.fit(adversarial(classifier()), colours(24), PLAN, folder=tmp_path, quiet=True)
    (tmp_path / "last.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged"):
        rr.fit(adversarial(classifier()), colours(), PLAN, folder=tmp_path, quiet=True)


def test_nan_stops_with_step_images_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    images, _ = colours().tensors
    targets = torch.ones(30)
    targets[7] = float("nan")
    recipe = _Least()
    plan = rr.Plan(steps=30, batch=5, every=1)
    with pytest.raises(ArithmeticError, match=r"in step (\d+) on the images \[.*7.*\]; the last good checkpoint") as caught:
        rr.fit(recipe, TensorDataset(images, targets), plan, folder=tmp_path, quiet=True)
    assert bool(recipe.line.weight.isfinite().all())
    assert recipe.line.weight.grad is None
    step = int(str(caught.value).split("in step ")[1].split()[0])
    if step > 1:
        assert f"(step {step - 1})" in str(caught.value)
        assert load_tree(tmp_path / "last.safetensors")["step"] == step - 1


def test_a_missing_field_is_named_before_the_first_step() -> None:
    network = classifier()
    before = state(network)
    with pytest.raises(ValueError, match="missing target"):
        rr.fit(adversarial(network), [rr.Batch(image) for image in torch.rand(4, 3, 8, 8)], PLAN, quiet=True)
    assert equal(before, state(network))
    with pytest.raises(TypeError, match="expected a Recipe"):
        rr.fit(network, colours(), PLAN)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="folder"):
        rr.fit(adversarial(network), colours(), PLAN, trackers=["tensorboard"])


def test_low_precision_trains_too() -> None:
    network = classifier()
    plan = rr.Plan(steps=60, batch=10, optimiser=rr.AdamW(lr=0.03), average=0.9, precision="bf16")
    history = rr.fit(rr.recipes.Plain(network, rr.tasks.Classification()), colours(), plan, _validation(network), quiet=True)
    assert history.best["accuracy"] > 0.9
    assert all(weight.dtype == torch.float32 for weight in network.parameters())


def test_tensorboard_gets_the_curves(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    rr.fit(adversarial(classifier()), colours(), PLAN, folder=tmp_path, trackers=["tensorboard"], quiet=True)
    found = event_accumulator.EventAccumulator(str(tmp_path / "fit"))
    found.Reload()
    assert {"loss", "rate", "images a second"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Scalars("loss")] == [4, 8, 12]


def test_validation_under_attack_in_parts_adds_up() -> None:
    network, task = classifier(), rr.tasks.Classification()
    attack = rr.attacks.FGSM(rr.Linf(0.1))
    whole = rr.Validation(network, colours(), task, attack, batch=4, limit=18)
    parts = [whole.statistics(torch.device("cpu"), rank, 3) for rank in range(3)]
    assert whole.values([sum(rank[0] for rank in parts)]) == whole()
    assert list(whole()) == ["accuracy (attacked)"]
    assert sum(float(rank[0][-1]) for rank in parts) == 18


def test_history_prints_and_plots(tmp_path: Path) -> None:
    network = classifier()
    history = rr.fit(adversarial(network), colours(), PLAN, _validation(network), tmp_path, quiet=True)
    assert str(history).splitlines()[0] == "| step | loss | rate | accuracy |"
    assert history.plot().startswith("<svg")
    assert history.plot().count("<polyline") == 2
    assert rr.History.from_json(history.json()) == history
    assert load_file(tmp_path / "best.safetensors").keys() == network.state_dict().keys()


def test_trees_of_tensors_and_values_come_back(tmp_path: Path) -> None:
    tree = {"a": [torch.arange(3), None, 2.5, {1: torch.rand(2, 2), "b": "text"}], "c": True}
    save_tree(tmp_path / "tree.safetensors", tree)
    found = load_tree(tmp_path / "tree.safetensors")
    assert torch.equal(found["a"][0], tree["a"][0])
    assert torch.equal(found["a"][3][1], tree["a"][3][1])
    assert found["a"][1:3] == [None, 2.5]
    assert found["c"] is True
    assert found["a"][3]["b"] == "text"


class _Masked(nn.Module):
    """A classifier with a mask of infinities among its buffers, and one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = classifier()
        self.once = self.twice = nn.Linear(3, 3, bias=False)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, images: Tensor) -> Tensor:
        return self.twice(self.once(self.body(images)))


@pytest.mark.parametrize("average", [None, 0.9])
def test_infinities_in_buffers_stay_and_tied_weights_are_written(average: float | None, tmp_path: Path) -> None:
    network = _Masked()
    pipeline, task = rr.DefendedPipeline(network), rr.tasks.Classification()
    plan = PLAN.replace(average=average)
    training = Training(pipeline, task, colours(), rr.recipes.Plain(pipeline, task), plan, _validation(network))
    training.run(tmp_path, quiet=True)
    assert network.mask.tolist() == [0.0, -torch.inf]
    kept = load_file(tmp_path / "trained.safetensors")
    assert torch.equal(kept["model.once.weight"], network.once.weight)
    assert torch.equal(kept["model.twice.weight"], network.once.weight)


class _Cusp(rr.Recipe):
    """A finite loss whose gradient is not: the square root at 0. `told`: any function, as a recipe of one's own may hold."""

    def __init__(self, told: object = None) -> None:
        super().__init__()
        self.told, self.line = told, nn.Linear(1, 1, bias=False)

    @property
    def trained(self) -> nn.Module:
        return self.line

    def run(self, batch: rr.Batch) -> dict[str, Tensor]:
        cusp = 0.0 if self.told else (0 * self.line.weight.sum()).sqrt()
        return {"loss": self.line.weight.square().sum() + cusp}


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_reaches_neither_weights_nor_checkpoint(clip: float | None, tmp_path: Path) -> None:
    recipe = _Cusp()
    before = state(recipe)
    with pytest.raises(ArithmeticError, match=r"gradient: .* in step 1 on the images \[\d+, .*none was written"):
        rr.fit(recipe, _line(), rr.Plan(steps=2, batch=4, clip=clip, every=1), folder=tmp_path, quiet=True)
    assert equal(before, state(recipe))
    assert recipe.line.weight.grad is None
    assert not list(tmp_path.iterdir())


def test_no_gradient_stays_behind() -> None:
    recipe = _Least()
    rr.fit(recipe, _line(), rr.Plan(steps=1, batch=4), quiet=True)
    assert recipe.line.weight.grad is None


def test_where_a_function_lies_is_no_other_training(tmp_path: Path) -> None:
    for told in (lambda: 1, lambda: 2):  # two addresses, as in two processes
        rr.fit(_Cusp(told), _line(), rr.Plan(steps=1, batch=4), folder=tmp_path, quiet=True)


def test_wrong_arguments_are_named_before_the_first_step(tmp_path: Path) -> None:
    file, recipe = tmp_path / "file", _Least()
    file.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="folder that can be written into"):
        rr.fit(recipe, _line(), folder=file)
    with pytest.raises(TypeError, match="plan: expected one such as"):
        rr.fit(recipe, _line(), {"steps": 3})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"rr\.Validation.*got list"):
        rr.fit(recipe, _line(), validate=[_line()])  # type: ignore[arg-type]
    assert recipe.line.weight.item() == 0
    for wrong in (0.5, {}):
        with pytest.raises(TypeError, match="named values such as"):
            rr.fit(recipe, _line(), rr.Plan(steps=1), validate=lambda wrong=wrong: wrong)  # type: ignore[misc]


def test_another_first_value_does_not_choose_among_the_best() -> None:
    history = rr.History()
    assert history.validated(1, {"psnr": 30.0})
    with pytest.raises(ValueError, match="expected 'psnr' first, .* got 'ssim'"):
        history.validated(2, {"ssim": 0.9})
    assert history.validations == [{"step": 1, "psnr": 30.0}]
