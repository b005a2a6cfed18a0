"""Arguments that are no numbers, or not such numbers, are refused by name when the part is made."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toys import photos
from toys_diffusion import Convolved

import robustrestore as rr
from robustrestore import arguments, certify, data, diffusion, guidances, levels, purifiers

NET = Convolved()
DIFFUSION = purifiers.Diffusion(NET)
MODEL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
IMAGES = list(photos(3))

WHOLE = [  # a part, its argument, the least value
    (partial(purifiers.Diffusion, NET), "steps", 1),
    (partial(purifiers.Diffusion, NET), "tile", 1),
    (partial(purifiers.Diffusion, NET, tile=64), "overlap", 0),
    (partial(purifiers.Diffusion, NET), "tiles_at_once", 1),
    (partial(purifiers.Denoise, NET), "tile", 1),
    (partial(purifiers.Denoise, NET, tile=64), "overlap", 0),
    (partial(purifiers.Denoise, NET), "tiles_at_once", 1),
    (partial(purifiers.DensePure, NET), "steps", 1),
    (partial(purifiers.ScoreOpt, NET), "iterations", 1),
    (partial(purifiers.Ensemble, DIFFUSION), "runs", 1),
    (partial(purifiers.Adaptive, [purifiers.Blur()], MODEL, "1"), "width", 1),
    (partial(purifiers.Adaptive, [purifiers.Blur()], MODEL, "1", 4), "dims", 1),
    (partial(rr.Features, MODEL, "1"), "dims", 1),
    (purifiers.Jpeg, "quality", 1),
    (purifiers.Median, "size", 1),
    (purifiers.BitDepth, "bits", 1),
    (rr.MeanVote, "runs", 1),
    (rr.MajorityVote, "runs", 1),
    (rr.surrogate, "steps", 1),
    (partial(data.Mixed, IMAGES), "count", 1),
    (partial(data.Mixed, IMAGES, 2), "seed", 0),
    (partial(data.Noisy, IMAGES, certify.Gaussian(0.1)), "copies", 1),
    (partial(data.Noisy, IMAGES, certify.Gaussian(0.1)), "seed", 0),
    (partial(data.RandomFields, 2, (1, 4, 4)), "seed", 0),
]
LEVELS = [  # a part, its argument, a value that is too low
    (partial(purifiers.Diffusion, NET), "sigma", -0.1),
    (partial(purifiers.Denoise, NET), "sigma", -0.1),
    (partial(purifiers.DensePure, NET), "sigma", 0),
    (partial(purifiers.ScoreOpt, NET, spread=0), "sigma", -0.1),
    (partial(purifiers.ScoreOpt, NET), "spread", -0.1),
    (partial(purifiers.ScoreOpt, NET), "lr", 0),
    (partial(purifiers.Adaptive, [purifiers.Blur()], MODEL, "1", 4), "temperature", -1),
    (purifiers.Blur, "sigma", 0),
    (partial(guidances.Denoised, NET), "sigma", -0.1),
]
SEEDS = [
    partial(purifiers.Diffusion, NET),
    partial(purifiers.DensePure, NET),
    partial(purifiers.ScoreOpt, NET),
    guidances.Renoised,
    partial(guidances.Denoised, NET),
]


def _called(value: Any) -> str:
    """A test's name that is the same in every process: no address."""
    part = getattr(value, "func", value)
    return str(getattr(part, "__name__", part))


def _refused(make: Any, name: str, values: tuple[Any, ...], kind: type[Exception], message: str) -> None:
    for value in values:
        with pytest.raises(kind, match=f"^{name}: expected {message}"):
            make(**{name: value})


@pytest.mark.parametrize(("make", "name", "least"), WHOLE, ids=_called)
def test_whole_numbers(make: Any, name: str, least: int) -> None:
    message = f"a whole number (>=|from) {least}.*, got"
    _refused(make, name, (least - 1, 2.5, 8.0, True, float("nan"), float("inf")), ValueError, message)
    _refused(make, name, ("8", [8], torch.tensor(8)), TypeError, message)
    make(**{name: np.int64(33 if name == "tile" else 3)})


@pytest.mark.parametrize(("make", "name", "low"), LEVELS, ids=_called)
def test_numbers(make: Any, name: str, low: float) -> None:
    _refused(make, name, (low, float("nan"), float("inf"), -float("inf"), True), ValueError, "a .* in|a finite number >= 0")
    _refused(make, name, ("0.1", [0.1], None, 1j, torch.tensor([0.1])), TypeError, "a .* in|a finite number >= 0")
    assert getattr(make(**{name: np.float32(0.0625)}), name) == 0.0625


@pytest.mark.parametrize("make", SEEDS, ids=_called)
def test_seeds(make: Any) -> None:
    message = r"a whole number from 0 to 2\^63 - 1, or None to draw afresh, got"
    _refused(make, "seed", (-1, 0.0, True, 2**63), ValueError, message)
    _refused(make, "seed", ("0", [0], torch.tensor(0)), TypeError, message)
    assert make(seed=None).seed is None
    found = make(seed=np.int64(7)).seed
    assert (found, type(found)) == (7, int)


@pytest.mark.parametrize("rounds", [[["0.1", 2]], [[0.1, 2.5]], [[0.1, True]], [[float("inf"), 2]], [[None, 2]]], ids=str)
def test_rounds(rounds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^(sigma|steps): expected a"):
        purifiers.Rounds(DIFFUSION, rounds)


def test_what_is_kept_is_of_pythons_own_types() -> None:
    part = purifiers.Diffusion(NET, np.float64(0.1), np.int32(2), seed=np.uint8(3), tile=np.int64(64), overlap=np.int64(8))
    wanted = {"sigma": float, "steps": int, "seed": int, "tile": int, "overlap": int}
    assert {name: type(part.settings()[name]) for name in wanted} == wanted
    assert arguments.whole(0, "x", 0) == 0


def test_other_kinds() -> None:
    with pytest.raises(TypeError, match="checkpointed: expected True or False, got 3"):
        purifiers.ScoreOpt(NET, checkpointed=3)
    with pytest.raises(TypeError, match="sampler: expected a Sampler"):
        purifiers.DensePure(NET, sampler="ddpm")
    with pytest.raises(ValueError, match="overlap: expected 0 <= overlap < tile, got overlap 32 and tile 8"):
        purifiers.Denoise(NET, tile=8)
    with pytest.raises(ValueError, match="checkpointed: expected True, False or a number of steps >= 1, got 2.5"):
        purifiers.DensePure(NET, checkpointed=2.5)
    with pytest.raises(TypeError, match=r"noise: expected one such as rr.certify.Gaussian\(0.25\), got float"):
        data.Noisy(IMAGES, 0.1)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, torch.float64], ids=["tensor", "array", "dtype"])
def test_levels_may_be_tensors_and_arrays_without_dimensions(kind: Any) -> None:
    value = torch.linspace(0, 0.0625, 2, dtype=kind)[1] if isinstance(kind, torch.dtype) else kind(0.0625)
    for make, name, _ in LEVELS:
        assert (found := getattr(make(**{name: value}), name)) == 0.0625
        assert type(found) is float
    assert levels.checked_levels([value, 0.5]) == [0.0625, 0.5]
    assert purifiers.Rounds(DIFFUSION, [[value, 2]]).rounds == [[0.0625, 2]]
    with pytest.raises(ValueError, match="got True"):
        purifiers.Denoise(NET, kind(True) if kind is not torch.float64 else torch.tensor(True))


def test_numpys_whole_numbers_in_diffusion() -> None:
    four = np.int64(4)
    for grid in (diffusion.Even(), diffusion.TimestepGrid()):
        assert grid.levels(0.3, four) == grid.levels(0.3, 4)
    assert diffusion.named_alphas("cosine", four) == diffusion.cosine_alphas(4)
    assert (
        type(diffusion.TimestepGrid("linear", four).steps) is type(diffusion.TimestepGrid([0.9, 0.5], np.int64(2)).steps) is int
    )
    assert type(diffusion.NoiseConditioned(nn.Identity(), multiple=four).multiple) is int
    for part in (purifiers.Diffusion(NET, checkpointed=four), purifiers.DensePure(NET, checkpointed=four)):
        assert (part.checkpointed, type(part.checkpointed)) == (4, int)
    for make in (
        diffusion.linear_alphas,
        partial(diffusion.Even().levels, 0.3),
        partial(diffusion.NoiseConditioned, NET, 1.0, 0.0),
    ):
        with pytest.raises(ValueError, match="expected a whole number >= 1, got True"):
            make(True)
