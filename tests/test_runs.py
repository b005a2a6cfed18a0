"""Runs: seeds that no other run has, in a stage and in what it wraps, and nothing else changed."""

import torch
from toys_diffusion import Convolved

import robustrestore as rr
from robustrestore import runs
from robustrestore.purifiers import Blur, Diffusion, Ensemble
from robustrestore.stage import StraightThrough


class _Several(rr.Purifier):
    """A stage that holds a list of stages."""

    def __init__(self, stages: list[rr.Stage]) -> None:
        super().__init__()
        self.stages = torch.nn.ModuleList(stages)

    def run(self, images: torch.Tensor) -> torch.Tensor:
        return self.stages[0](images)


def test_spawned_seeds_are_all_different_and_always_the_same() -> None:
    found = {runs.spawn(seed, f"{what} {k}") for seed in range(20) for what in ("run", "vote") for k in range(50)}
    assert len({seed % 2**32 for seed in found}) == 2000  # PyTorch's CPU generator reads 32 bits
    assert runs.spawn(0, "run 1") == 392939803330618886  # on every machine


def test_only_the_seed_changes() -> None:
    one = Diffusion(Convolved(), sigma=0.2, steps=3, seed=7)
    other = runs.reseeded(one, "x")
    assert other.settings() == {**one.settings(), "seed": runs.spawn(7, "x")}
    assert other.denoiser is one.denoiser


def test_wrapped_stages_are_reached() -> None:
    one = Diffusion(Convolved(), seed=7)
    seed = runs.spawn(7, "x")
    assert runs.reseeded(StraightThrough(one), "x").stage.seed == seed
    assert runs.reseeded(Ensemble(one, 2), "x").purifier.seed == seed
    several = runs.reseeded(_Several([Blur(), one]), "x")
    assert several.stages[1].seed == seed
    assert one.seed == 7


def test_what_has_no_seed_is_handed_back() -> None:
    for stage in (Blur(), Diffusion(Convolved(), seed=None), StraightThrough(Blur()), _Several([Blur()])):
        assert runs.reseeded(stage, "x") is stage
    assert [type(stage) for stage in runs.repeated(Blur(), "x", 3)] == [Blur] * 3
