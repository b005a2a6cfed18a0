"""Schedulers of diffusers from their configuration, once nothing in it contradicts."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def load_scheduler(load: Callable[..., Any], name: str) -> Any:
    """The scheduler of a pipeline; `load` reads its configuration, by a class's `load_config`.

    It is made by the class that the configuration names, which knows what it does to its betas. Raises ValueError, with the
    `name` of the pipeline, for one that is not told whole or contradicts itself: diffusers would take its defaults.
    """
    from diffusers import DDPMScheduler

    config = load(DDPMScheduler.load_config)
    if not isinstance(config, dict):
        raise ValueError(f"{name}: expected the configuration of a scheduler by names, got {type(config).__name__}")
    _check(config, name)
    made_by = _class(config, name)
    try:
        scheduler = made_by.from_config(config)
    except (ValueError, TypeError, RuntimeError) as error:  # NotImplementedError is a RuntimeError
        told = str(error).partition("\n")[0]
        raise ValueError(f"{name}: expected the configuration of a scheduler that diffusers can make: {told}") from error
    betas = scheduler.betas
    if not bool(((betas > 0) & (betas <= 1)).all()):
        low, high = float(betas.min()), float(betas.max())
        raise ValueError(f"{name}: expected betas of its scheduler in (0, 1], got {low:.4g} to {high:.4g}")
    return scheduler


def _class(config: Mapping[str, Any], name: str) -> Any:
    """The class named, or DDPMScheduler where none is or diffusers keeps it for those who install more."""
    import diffusers

    named = config.get("_class_name")
    found = diffusers.DDPMScheduler if named is None else getattr(diffusers, str(named), None)
    if hasattr(found, "_backends"):
        return diffusers.DDPMScheduler
    if not isinstance(found, type) or "beta_schedule" not in inspect.signature(found).parameters:
        raise ValueError(
            f"{name}: expected a scheduler of diffusers with betas (DDPM, DDIM, DPM-Solver), got {named}: hand one over, "
            "denoiser_from(unet, scheduler)"
        )
    return found


def _check(config: Mapping[str, Any], name: str) -> None:
    """Raise ValueError unless the schedule is told whole, and once."""
    trained, steps = config.get("trained_betas"), config.get("num_train_timesteps")
    needed = {"num_train_timesteps"} | (set() if trained is not None else {"beta_schedule"})
    if trained is None and config.get("beta_schedule") != "squaredcos_cap_v2":
        needed |= {"beta_start", "beta_end"}
    if missing := sorted(key for key in needed if config.get(key) is None):
        raise ValueError(
            f"{name}: expected the configuration of a scheduler with betas (DDPM, DDIM, DPM-Solver), got "
            f"{config.get('_class_name')} without {', '.join(missing)}"
        )
    if not isinstance(steps, int) or steps < 2:
        raise ValueError(f"{name}: num_train_timesteps: expected a whole number >= 2, got {steps!r}")
    if trained is not None and len(trained) != steps:
        raise ValueError(f"{name}: trained_betas: expected as many as num_train_timesteps, {steps}, got {len(trained)}")
    prediction, flow = config.get("prediction_type", "epsilon"), config.get("use_flow_sigmas", False)
    if prediction not in ("epsilon", "v_prediction", "sample") or flow:
        got = "use_flow_sigmas" if flow else repr(prediction)
        raise ValueError(f"{name}: prediction_type: expected epsilon, v_prediction or sample, got {got}")
