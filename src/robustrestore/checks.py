"""The promises of each kind of part, as functions that plug-in authors run in their own tests.

Each raises AssertionError that says which promise was broken and by how much, and returns nothing.
"""

import tempfile
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .attack import Attack
from .certify import NORMS, Noise
from .component import Component
from .degradation import Degradation
from .diffusion import Denoiser, Guidance, guided
from .modes import evaluating, seeded
from .recipe import Batch, Recipe, training
from .stage import Stage
from .task import Objective, Task
from .threat import Threat


def _require(kept: bool, part: object, promise: str, detail: object = "") -> None:
    if not kept:
        raise AssertionError(f"{type(part).__name__} broke a promise: {promise} {detail}".rstrip())


def _images(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    own = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, channels, 4, 4, generator=own)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return (smooth + 0.05 * torch.randn(smooth.shape, generator=own)).clamp(0, 1)


def check_component(part: Component, modules: Mapping[str, nn.Module] | None = None) -> None:
    """Settings make the part again; saving and loading gives the same settings, repr and weights.

    `modules`: foreign modules by dotted path, as for `from_pretrained`.
    """
    same = type(part)(**part.settings())
    _require(same.config() == part.config(), part, "settings() makes the same part", f"{part!r} became {same!r}")
    with tempfile.TemporaryDirectory() as folder:
        part.save_pretrained(folder)
        loaded = type(part).from_pretrained(folder, modules)
        _require(loaded.config() == part.config(), part, "saving and loading keeps the settings", repr(loaded))
        if isinstance(part, nn.Module) and isinstance(loaded, nn.Module):
            for name, tensor in part.state_dict().items():
                _require(torch.equal(tensor, loaded.state_dict()[name]), part, "saving keeps the weights", name)


def check_stage(stage: Stage, channels: int = 3) -> None:
    """Odd sizes and single images keep their shape, values stay in [0, 1], inputs unchanged, gradients finite."""
    for shape in ((1, 17, 23), (2, 33, 16)):
        images = _images(*shape, channels=channels)
        before, modes = images.clone(), [m.training for m in stage.modules()]
        with seeded(1):
            state = torch.random.get_rng_state() if getattr(stage, "seed", 0) is not None else None
            out = stage(images)
            kept = state is None or torch.equal(state, torch.random.get_rng_state())
        _require(out.shape == images.shape, stage, "the shape is kept", f"{list(images.shape)} -> {list(out.shape)}")
        _require(out.dtype == images.dtype, stage, "the dtype is kept", f"{images.dtype} -> {out.dtype}")
        _require(bool(((out >= 0) & (out <= 1)).all()), stage, "values stay in [0, 1]")
        _require(torch.equal(images, before), stage, "the input is left unchanged")
        _require(kept, stage, "a stage with a seed leaves the global generator alone")
        _require([m.training for m in stage.modules()] == modes, stage, "modes are left as found")
    leaf = _images(1, 17, 23, channels).requires_grad_()
    with seeded(1):
        out = stage(leaf)
    _require(out.requires_grad, stage, "gradients flow (wrap what has none in images.straight_through)")
    (gradient,) = torch.autograd.grad(out.square().sum(), leaf)
    _require(bool(gradient.isfinite().all()), stage, "gradients are finite")
    _require(bool((gradient != 0).any()), stage, "gradients are not all zero")


def check_threat(threat: Threat) -> None:
    """Projection stays in the ball and the box and repeats itself; random and steepest changes have the right size."""
    images, own = _images(3, 9, 7), torch.Generator().manual_seed(0)
    far = images + torch.randn(images.shape, generator=own)
    for found in (threat.project(far, images), threat.random(images, own)):
        size = float(threat.size(found - images).max())
        _require(size <= threat.eps * (1 + 1e-5) + 1e-6, threat, "changes stay in the ball", f"{size} > {threat.eps}")
        _require(bool(((found >= 0) & (found <= 1)).all()), threat, "images stay in [0, 1]")
    again = threat.project(threat.project(far, images), images)
    _require(torch.allclose(again, threat.project(far, images), atol=1e-6), threat, "projecting twice changes nothing")
    step = threat.size(threat.steepest(torch.randn(images.shape, generator=own)))
    _require(torch.allclose(step, torch.ones(3), atol=1e-4), threat, "steepest changes have size 1", step)


def check_noise(noise: Noise) -> None:
    """Draws repeat under a generator and keep shape and inputs; radii rise with p, and one value's threshold bears them."""
    images = (_images(2, 5, 7) * 255).round() / 255
    before, state = images.clone(), torch.random.get_rng_state()
    one, two = (noise.applied(images, noise.sample_like(images, torch.Generator().manual_seed(1))) for _ in range(2))
    _require(one.shape == images.shape and one.dtype == images.dtype, noise, "shape and dtype are kept")
    _require(torch.equal(one, two), noise, "a seeded generator repeats the draws")
    _require(torch.equal(images, before), noise, "the input is left unchanged")
    _require(torch.equal(state, torch.random.get_rng_state()), noise, "the global generator is left alone")
    p = [0.0, 0.5, 0.6, 0.75, 0.9, 0.99]
    for norm in NORMS:
        radii = noise.radius(p, norm, 105)
        _require(bool((radii[:2] == 0).all() and (radii[2:] > 0).all()), noise, f"{norm} radii start at p = 1/2")
        _require(bool((radii[1:] >= radii[:-1]).all()), noise, f"{norm} radii rise with p", radii)
        _require(float(noise.radius(0.9, norm, 1)) >= float(radii[4]), noise, f"{norm} radii do not grow with the image")
    here = torch.full((40_000, 1, 1, 1), 60 / 255)
    own = torch.Generator().manual_seed(2)
    limit = noise.applied(here, noise.sample_like(here, own)).flatten().quantile(0.9)
    moved = here + int(min(0.7, 0.99 * float(noise.radius(0.9, "l1", 1))) * 255) / 255
    share = float((noise.applied(moved, noise.sample_like(moved, own)) <= limit).double().mean())
    _require(share > 0.49, noise, "an event of p = 0.9 keeps more than 1/2 inside its radius", share)


def check_attack(attack: Attack, model: Callable[[Tensor], Tensor], images: Tensor, objective: Objective) -> None:
    """Inside the ball and [0, 1], no image's objective lowered, inputs, modes, `.grad` and global generator as found.

    `model` has to be deterministic. A mirroring attack is held to the mirrored objective.
    """
    before, modules = images.clone(), list(model.modules()) if isinstance(model, nn.Module) else []
    modes, state = [m.training for m in modules], torch.random.get_rng_state()
    with torch.no_grad():
        found = attack(model, images, objective)
    _require(torch.equal(images, before), attack, "the input is left unchanged")
    _require([m.training for m in modules] == modes, attack, "modes are left as found")
    seed = getattr(attack, "seed", 0)
    _require(seed is None or torch.equal(state, torch.random.get_rng_state()), attack, "the global generator is left alone")
    grads = [p.grad for m in modules for p in m.parameters(recurse=False)]
    _require(all(grad is None for grad in grads), attack, "no gradient is stored in the model")
    _require(found.shape == images.shape and found.dtype == images.dtype, attack, "shape and dtype are kept")
    _require(not found.requires_grad, attack, "the result is detached")
    size = float(attack.threat.size(found - images).max())
    _require(size <= attack.threat.eps * (1 + 1e-5) + 1e-6, attack, "changes stay in the ball", size)
    _require(bool(((found >= 0) & (found <= 1)).all()), attack, "images stay in [0, 1]")
    goal = objective.mirrored() if attack.mirrors else objective
    with torch.no_grad(), evaluating(model):
        lost = goal.gain(model(images)) - goal.gain(model(found))
    _require(not attack.ascends or bool((lost <= 1e-5).all()), attack, "no image's objective is lowered", lost)


def check_denoiser(denoiser: Denoiser, channels: int = 3, exact: bool = True) -> None:
    """Odd sizes, sigma as a number or per image, finite gradients; with `exact`, sigma 0 gives the image back."""
    noisy = _images(2, 17, 23, channels)
    one = denoiser(noisy, 0.1)
    _require(one.shape == noisy.shape, denoiser, "the shape is kept", list(one.shape))
    each = denoiser(noisy, torch.tensor([0.1, 0.1]))
    _require(torch.allclose(one, each, atol=1e-5), denoiser, "one sigma for all equals one for each")
    if exact:
        _require(torch.allclose(denoiser(noisy, 0.0), noisy, atol=1e-3), denoiser, "sigma 0 gives the image back")
    leaf = noisy.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(denoiser(leaf, 0.1).sum(), leaf)
    _require(bool(gradient.isfinite().all()), denoiser, "gradients are finite")


def check_task(task: Task, outputs: Tensor, target: Tensor) -> None:
    """One loss, verdict and gain an image; the untargeted goal raises the loss; a mirror changes the sign; metrics sum."""
    count = len(target)
    task.check(outputs, target)
    loss = task.loss(outputs, target)
    _require(loss.shape == (count,) and bool(loss.isfinite().all()), task, "one finite loss an image", loss)
    verdict = task.correct(outputs, target)
    _require(verdict.shape == (count,) and verdict.dtype == torch.bool, task, "one verdict an image", verdict)
    goal = task.untargeted(target)
    _require(task.targeted(target).towards and not goal.towards, task, "targeted goals say towards=True, others do not")
    _require(torch.allclose(goal.gain(outputs), loss), task, "the untargeted gain is the loss")
    _require(torch.allclose(goal.mirrored().gain(outputs), -loss), task, "the mirrored gain is its negative")
    for metric in task.metrics():
        statistics = metric.measure(outputs, target).double().numpy()
        _require(statistics.shape[0] == count, task, f"metric {metric.name} gives one line an image")
        value, (low, high) = metric.value(statistics), metric.interval(statistics)
        _require(
            low <= value + 1e-9 and value <= high + 1e-9,
            task,
            f"{metric.name} lies in its interval",
            (low, value, high),
        )
    picture = task.render(outputs, _images(count, *(outputs.shape[2:] if outputs.dim() == 4 else (8, 8))))
    _require(picture.shape[:2] == (count, 3), task, "render gives RGB pictures", list(picture.shape))


def check_degradation(degradation: Degradation) -> None:
    """The same key gives the same result in any batch; shape and range kept; gradients finite; nothing else touched."""
    images = _images(2, 24, 31)
    before, state = images.clone(), torch.random.get_rng_state()
    both, single = degradation(images, [5, 6]), degradation(images[1:], [6])
    _require(both.shape == images.shape, degradation, "the shape is kept")
    _require(bool(((both >= 0) & (both <= 1)).all()), degradation, "values stay in [0, 1]")
    _require(torch.allclose(both[1:], single, atol=1e-6), degradation, "a key means the same in every batch")
    _require(torch.equal(before, images), degradation, "the input is left unchanged")
    _require(torch.equal(state, torch.random.get_rng_state()), degradation, "the global generator is left alone")
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(degradation(leaf).sum(), leaf)
    _require(bool(gradient.isfinite().all()), degradation, "gradients are finite")


def check_guidance(guidance: Guidance, channels: int = 3) -> None:
    """Shape kept, no image hangs on its batch, inputs, modes and `.grad` as found, no graph unasked, finite gradients."""
    given = _images(2, 17, 23, channels)
    noisy = given + 0.1 * torch.randn(given.shape, generator=torch.Generator().manual_seed(5))
    before, modes = (given.clone(), noisy.clone()), [part.training for part in guidance.modules()]

    def correct(noisy: Tensor, given: Tensor) -> Tensor:
        with seeded(1):
            return guided(lambda images, sigma: 0.9 * images + sigma * images.square(), guidance, noisy, given, 0.1)

    both, single = correct(noisy, given), correct(noisy[:1], given[:1])
    _require(both.shape == given.shape, guidance, "the shape is kept", list(both.shape))
    _require(torch.allclose(both[:1], single, atol=1e-5), guidance, "an image does not hang on its batch")
    _require(torch.equal(given, before[0]) and torch.equal(noisy, before[1]), guidance, "inputs are left unchanged")
    _require([part.training for part in guidance.modules()] == modes, guidance, "modes are left as found")
    _require(not both.requires_grad, guidance, "no graph is made where none is asked for")
    with torch.no_grad():
        _require(torch.allclose(correct(noisy, given), both, atol=1e-5), guidance, "it works under no_grad")
    leaf = given.clone().requires_grad_()
    with torch.enable_grad():
        correct(leaf + (noisy - given), leaf).square().sum().backward()  # type: ignore[no-untyped-call]
    gradient = leaf.grad
    _require(gradient is not None and bool(gradient.isfinite().all()), guidance, "gradients are finite")
    _require(all(weight.grad is None for weight in guidance.parameters()), guidance, "no gradient is stored in it")


def check_recipe(recipe: Recipe, batch: Batch) -> None:
    """A finite scalar loss, gradients in the trained part alone, all else untouched bit by bit, modes and inputs as found.

    `batch` needs two images or more, all that the recipe needs, and a loss that is not at its optimum. The trained part's own
    batch statistics may move.
    """
    fields = {name: getattr(batch, name).clone() for name in batch.given()}
    modes = [part.training for part in recipe.modules()]
    ours = {id(weight) for weight in recipe.trained.parameters()} | {id(buffer) for buffer in recipe.trained.buffers()}
    held = {**dict(recipe.named_parameters()), **dict(recipe.named_buffers())}
    frozen = {name: (tensor, tensor.detach().clone()) for name, tensor in held.items() if id(tensor) not in ours}
    weights, before = list(recipe.trained.parameters()), [weight.grad for weight in recipe.parameters()]
    with training(recipe), seeded(3):
        inside = [part.training for part in recipe.modules()]
        losses = recipe(batch)
        _require(losses["loss"].dim() == 0 and bool(losses["loss"].isfinite()), recipe, "the loss is one finite number", losses)
        _require(losses["loss"].requires_grad, recipe, "the loss has a gradient in the trained part")
        found = torch.autograd.grad(losses["loss"], weights, allow_unused=True)
        _require([part.training for part in recipe.modules()] == inside, recipe, "modes are left as found while it trains")
    reached = [gradient for gradient in found if gradient is not None]
    _require(all(bool(gradient.isfinite().all()) for gradient in reached), recipe, "gradients are finite")
    _require(any(bool((gradient != 0).any()) for gradient in reached), recipe, "a gradient reaches the trained part")
    moved = [name for name, (tensor, kept) in frozen.items() if not torch.equal(tensor, kept)]
    _require(not moved, recipe, "frozen parts are left bit for bit, batch statistics included", moved)
    stored = [weight.grad is not grad for weight, grad in zip(recipe.parameters(), before, strict=True)]
    _require(not any(stored), recipe, "no gradient is stored on the way")
    _require([part.training for part in recipe.modules()] == modes, recipe, "modes are left as found")
    kept = all(torch.equal(getattr(batch, name), tensor) for name, tensor in fields.items())
    _require(kept, recipe, "the batch is left unchanged")
