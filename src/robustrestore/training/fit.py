"""fit: run a recipe over data, on what accelerate finds, so that it can be killed at any moment and taken up again."""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..files import digest, writable, write_text
from ..modes import evaluating, seeded
from ..recipe import Batch, Recipe, training
from ..runs import spawn
from .checkpoints import Loose, load_tree, save_state, save_tree
from .device import across, check_target, on_device, share_buffers
from .history import History
from .plan import Plan
from .progress import training_bar
from .stream import Data, Stream
from .validation import Validation

Validate = Validation | Callable[[], Mapping[str, float]]
LAST, BEST, HISTORY = "last.safetensors", "best.safetensors", "history.json"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def fit(
    recipe: Recipe,
    data: Data,
    plan: Plan | None = None,
    validate: Validate | None = None,
    folder: str | Path | None = None,
    trackers: Sequence[str] = (),
    quiet: bool = False,
) -> History:
    """Train `recipe.trained` in place, and hand back what was seen on the way.

    On the devices that accelerate finds: alone, or in many processes under `accelerate launch` or `torchrun`; a step is `batch`
    images over all of them. `validate`: a `Validation`, or a function that gives named values, the first of which chooses the
    best weights (higher is better). At the end the trained part holds the best validated weights, the last ones without
    `validate`, averaged as the plan says; modes, `requires_grad` and the device are as before, frozen parts bit for bit.

    With `folder`: `last.safetensors` is the whole state, so that the same call goes on after a kill and ends with the same
    weights (bit for bit on a CPU); `best.safetensors` the best weights (`weights.load_weights` reads them), `history.json` the
    history. `trackers`: names that accelerate knows, such as "tensorboard". A bar on the error stream shows loss, rate and time
    left, if it is a terminal and not `quiet`.

    Raises ValueError before the first step where a batch lacks what the recipe needs, the target does not fit the task or the
    folder holds another training, ImportError where a tracker is not installed, and ArithmeticError for a loss or a gradient
    that is not finite, with the step, the images and the last good checkpoint.
    """
    plan = Plan() if plan is None else plan
    _check_arguments(recipe, plan, validate)
    stream = Stream(data, plan.batch, plan.seed)
    first = stream.first()
    recipe.check(first)
    place = None if folder is None else writable(Path(folder))
    with training(recipe) as weights, on_device(recipe, place, trackers) as accelerator:
        check_target(recipe, first.to(accelerator.device))
        run = _Training(recipe, weights, plan, stream, accelerator, place)
        run.go(validate, quiet)
    return run.history


def _check_arguments(recipe: object, plan: object, validate: object) -> None:
    """TypeError where one is of the wrong kind."""
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe: expected a Recipe such as rr.recipes.PEARL(...), got {type(recipe).__name__}")
    if not isinstance(plan, Plan):
        raise TypeError(f"plan: expected one such as rr.Plan(steps=1000), got {type(plan).__name__}")
    if validate is not None and not callable(validate):
        raise TypeError(
            f"validate: expected rr.Validation(model, data, task) or a function of named values, got {type(validate).__name__}"
        )


class _Training:
    """The state of one `fit`."""

    def __init__(
        self, recipe: Recipe, weights: list[nn.Parameter], plan: Plan, stream: Stream, accelerator: Any, folder: Path | None
    ) -> None:
        self.recipe, self.weights, self.plan, self.stream, self.accelerator = recipe, weights, plan, stream, accelerator
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        if plan.batch % (self.world * plan.accumulate):
            raise ValueError(
                f"batch: expected a multiple of {self.world} processes x {plan.accumulate} portions, got {plan.batch}"
            )
        self.folder, self.device = folder, accelerator.device
        self.module, self.loose = across(recipe, accelerator), Loose(recipe)
        self.optimiser = plan.optimiser.make(weights)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=plan.precision == "fp16")
        self.averaged = None if plan.average is None else [tensor.detach().clone() for tensor in self._moving()]
        self.best: dict[str, Tensor] | None = None
        self.step, self.history = 0, History(about=self._about())
        self.saved: int | None = None

    def _about(self) -> dict[str, Any]:
        """What a run that is taken up again has to agree in."""
        names = [name for name, _ in self.recipe.trained.named_parameters()]
        recipe = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self.recipe))  # where a function lies changes from run to run
        ours = {id(weight) for weight in self.weights}
        frozen = digest(*(weight for weight in self.recipe.parameters() if id(weight) not in ours))
        about = {"recipe": recipe, "plan": repr(self.plan), "images": len(self.stream), "parameters": len(names)}
        return {**about, "frozen weights": frozen[:16]}

    def _moving(self) -> list[Tensor]:
        """What is averaged: parameters and floating buffers of the trained part."""
        return [t for t in (*self.weights, *self.recipe.trained.buffers()) if t.is_floating_point()]

    def go(self, validate: Validate | None, quiet: bool) -> None:
        """From where a checkpoint left off to the last step; then the weights to hand back."""
        self._resume()
        tracked = bool(self.accelerator.log_with)
        if tracked:
            self.accelerator.init_trackers("fit", config={k: str(v) for k, v in self.history.about.items()})
        sums: dict[str, float] = {}
        portions = self.stream.portions(self.step, self.plan.steps, self.rank, self.world, self.plan.accumulate)
        silent = quiet or not self.accelerator.is_main_process
        with training_bar(self.plan.steps, self.step, silent) as show:
            since, began = self.step, time.monotonic()
            for batches in portions:
                losses = self._update(batches)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value
                self.step += 1
                show(self.step, {**losses, "rate": self.plan.optimiser.rate(self.step - 1, self.plan.steps)})
                if self.step % self.plan.interval == 0 or self.step == self.plan.steps:
                    row = {name: total / (self.step - since) for name, total in sums.items()}
                    self._checkpoint(row, validate)
                    if tracked:
                        speed = (self.step - since) * self.plan.batch / max(1e-9, time.monotonic() - began)
                        self.accelerator.log({**self._newest(), "images a second": speed}, step=self.step)
                    sums, since, began = {}, self.step, time.monotonic()
        self._hand_back()

    def _newest(self) -> dict[str, float]:
        validated = self.history.validations[-1] if self.history.validations else {}
        rows = [self.history.rows[-1], validated if validated.get("step") == self.step else {}]
        return {name: value for row in rows for name, value in row.items() if name != "step"}

    def _update(self, batches: list[Batch]) -> dict[str, float]:
        """One step of the optimiser; the mean losses over its portions and all processes."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.optimiser.rate(self.step, self.plan.steps)
        self.optimiser.zero_grad(set_to_none=True)
        found = []
        for k, batch in enumerate(batches):
            last = k == len(batches) - 1
            with nullcontext() if last or self.world == 1 else self.accelerator.no_sync(self.module):
                losses = self._losses(batch.to(self.device), k)
                self.scaler.scale(losses["loss"] / len(batches)).backward()  # type: ignore[no-untyped-call]
            found.append({name: value.detach() for name, value in losses.items()})
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.weights, math.inf if self.plan.clip is None else self.plan.clip)
        means = self._agreed(found, batches, norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        share_buffers(self.recipe.trained, self.world)
        self._average()
        return means

    def _agreed(self, found: list[dict[str, Tensor]], batches: list[Batch], norm: Tensor) -> dict[str, float]:
        """The mean losses, told between the processes once a step; stop where a loss or a gradient is not finite.

        All processes stop or none: a mean is finite only if every part is, and the gradients are the same in all of them.
        """
        names = list(found[0])
        values = torch.stack([torch.stack([one[name].float() for one in found]).mean() for name in names])
        means = dict(zip(names, self.accelerator.reduce(values, "mean").tolist(), strict=True))
        if not math.isfinite(means["loss"]):
            bad = [k for k, one in enumerate(found) if not bool(one["loss"].isfinite())]
            self._stop("loss", means["loss"], [batches[k] for k in bad])
        if not self.scaler.is_enabled() and not bool(norm.isfinite()):  # which leaves out such steps
            self._stop("gradient", float(norm), batches)
        return means

    def _losses(self, batch: Batch, portion: int) -> dict[str, Tensor]:
        dtype = DTYPES.get(self.plan.precision)
        low = nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)
        with seeded(spawn(self.plan.seed, f"{self.step}/{portion}/{self.rank}") % 2**63), low:
            out: dict[str, Tensor] = self.module(batch)
        return out

    def _stop(self, what: str, value: float, batches: Sequence[Batch]) -> NoReturn:
        """Before a loss or a gradient that is not finite reaches the weights."""
        self.optimiser.zero_grad(set_to_none=True)
        own = [place for batch in batches if batch.index is not None for place in batch.index.tolist()]
        places = str(own) if batches else "of another process"
        kept = "none was written" if self.saved is None or self.folder is None else f"{self.folder / LAST} (step {self.saved})"
        raise ArithmeticError(
            f"{what}: expected a finite number, got {value} in step {self.step + 1} on the images {places}; "
            f"the last good checkpoint: {kept}. Look at these images, lower the learning rate, or use precision 'no'"
        )

    def _average(self) -> None:
        """A running average, over fewer steps at the start, so that the first weights are forgotten."""
        if self.averaged is None or self.plan.average is None:
            return
        share = 1 - min(self.plan.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for k, (kept, now) in enumerate(zip(self.averaged, self._moving(), strict=True)):
                same = kept == now if k >= len(self.weights) else None  # a buffer may hold infinities, a mask's: they stay
                kept.lerp_(now, share)
                if same is not None:
                    kept.copy_(torch.where(same, now, kept))

    @contextmanager
    def _averages(self) -> Iterator[None]:
        """The averaged weights in place of the moving ones."""
        if self.averaged is None:
            yield
            return
        moving = [tensor.detach().clone() for tensor in self._moving()]
        try:
            self._set(self.averaged)
            yield
        finally:
            self._set(moving)

    def _set(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for tensor, value in zip(self._moving(), values, strict=True):
                tensor.copy_(value)

    def _checkpoint(self, row: dict[str, float], validate: Validate | None) -> None:
        """Validate the averaged weights, then write everything down."""
        rate = self.plan.optimiser.rate(self.step - 1, self.plan.steps)
        self.history.rows.append({"step": self.step, **row, "rate": rate})
        if validate is not None:
            with self._averages():
                if self.history.validated(self.step, self._validated(validate)):
                    self.best = {name: tensor.detach().clone() for name, tensor in self.recipe.trained.state_dict().items()}
                    if self.folder is not None and self.accelerator.is_main_process:
                        save_state(self.folder / BEST, self.best)
        if self.folder is not None and self.accelerator.is_main_process:
            save_tree(self.folder / LAST, self._state())
            write_text(self.folder / HISTORY, self.history.json())
        self.saved = self.step
        self.accelerator.wait_for_everyone()

    def _validated(self, validate: Validate) -> dict[str, float]:
        with evaluating(self.recipe.trained):
            if isinstance(validate, Validation):
                totals = validate.statistics(self.device, self.rank, self.world)
                return validate.values([self.accelerator.reduce(total, "sum") for total in totals])
            found = validate()
        if not isinstance(found, Mapping) or not found:
            raise TypeError(f"validate: expected named values such as {{'accuracy': 0.9}}, got {found!r}")
        return {str(name): float(value) for name, value in found.items()}

    def _state(self) -> dict[str, Any]:
        return {
            "about": self.history.about,
            "step": self.step,
            "trained": dict(self.recipe.trained.state_dict()),
            "buffers": self.loose.changed(),
            "average": self.averaged,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "history": self.history.json(),
        }

    def _resume(self) -> None:
        """Take up the folder's checkpoint, if there is one of the same training."""
        if self.folder is None or not (self.folder / LAST).is_file():
            return
        state = load_tree(self.folder / LAST)
        known, now = state["about"], self.history.about
        if differ := [key for key in now if known.get(key) != now[key]]:
            told = "; ".join(f"{key}: {known.get(key)} there, {now[key]} here" for key in differ)
            raise ValueError(f"{self.folder}: expected a checkpoint of this training, got one that differs ({told}): "
                             "choose another folder, or delete this one to start anew")  # fmt: skip
        self.recipe.trained.load_state_dict(state["trained"])
        self.loose.restore(state.get("buffers", {}), self.device)
        self.averaged = None if state["average"] is None else [tensor.to(self.device) for tensor in state["average"]]
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]
        self.step = self.saved = int(state["step"])
        self.history = History.from_json(state["history"])

    def _hand_back(self) -> None:
        """The best weights, else the averaged ones, into the trained part; no gradient stays behind."""
        self.optimiser.zero_grad(set_to_none=True)
        if self.best is not None:
            self.recipe.trained.load_state_dict(self.best)
        elif self.averaged is not None:
            self._set(self.averaged)
        finite = all(bool(weight.isfinite().all()) for weight in self.weights)
        if not finite or any(bool(tensor.isnan().any()) for tensor in self._moving()):
            raise ArithmeticError("weights: expected finite values after the training, got NaN or infinity")
