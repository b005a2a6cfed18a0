"""Every registered part keeps the promises of its kind. A new part needs a line in CASES."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from toys import Gain, PixelSegmenter, photos

import robustrestore as rr
from robustrestore import checks, diffusion, registry


class _Pull(nn.Module):
    """A stand-in noise-conditioned network: moves towards the image's mean, more so for higher noise."""

    def forward(self, noisy: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        share = (level / (1 + level)).view(-1, 1, 1, 1)
        return noisy + share * (noisy.mean(dim=(2, 3), keepdim=True) - noisy)


class _Still(nn.Module):
    """A stand-in network with timesteps that predicts the image it is handed."""

    def forward(self, z: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return z


def _pull() -> diffusion.Denoiser:
    return diffusion.NoiseConditioned(_Pull())


CASES: dict[str, dict[str, Callable[[], rr.Component]]] = {
    "attacks": {
        "ama": lambda: rr.attacks.AMA(rr.Linf(4 / 255), steps=3),
        "fgsm": lambda: rr.attacks.FGSM(rr.Linf(4 / 255)),
        "pgd": lambda: rr.attacks.PGD(rr.L2(0.2), steps=3, restarts=2, samples=2),
    },
    "degradations": {"rain": lambda: rr.degradations.Rain(blend="screen", seed=3)},
    "denoisers": {
        "discrete_time": lambda: diffusion.DiscreteTime(_Still(), prediction="sample"),
        "noise_conditioned": _pull,
        "sigma_unet": lambda: diffusion.SigmaUNet(width=8),
    },
    "models": {"adapted": lambda: rr.Adapted(Gain(), mean=[0.5] * 3, std=[0.2] * 3, channels=[2, 1, 0])},
    "pipelines": {"defended": lambda: rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.Blur(), rr.restorers.UNet(width=4)])},
    "purifiers": {
        "bit_depth": rr.purifiers.BitDepth,
        "blur": rr.purifiers.Blur,
        "diffusion": lambda: rr.purifiers.Diffusion(diffusion.SigmaUNet(width=8), steps=3, sampler=diffusion.DDPM()),
        "jpeg": rr.purifiers.Jpeg,
        "median": rr.purifiers.Median,
    },
    "restorers": {"network": lambda: rr.restorers.Network(Gain(0.9)), "unet": lambda: rr.restorers.UNet(width=4)},
    "samplers": {"ddim": lambda: diffusion.DDIM(eta=0.5), "ddpm": diffusion.DDPM, "one_step": diffusion.OneStep},
    "tasks": {
        "classification": rr.tasks.Classification,
        "restoration": lambda: rr.tasks.Restoration(floor=20),
        "segmentation": lambda: rr.tasks.Segmentation(ignore=7, floor=0.4),
    },
    "threats": {"l2": lambda: rr.L2(0.5), "linf": lambda: rr.Linf(8 / 255)},
}
PARTS = [entry for entry in registry.entries() if entry.package == "robustrestore"]
FOREIGN = {"adapted": ["model"], "defended": ["model"], "network": ["network"], "noise_conditioned": ["network"]}
FOREIGN["discrete_time"] = ["network"]


def test_every_registered_part_has_a_case() -> None:
    assert {(e.kind, e.name) for e in PARTS} == {(kind, name) for kind, names in CASES.items() for name in names}


@pytest.mark.parametrize("entry", PARTS, ids=lambda e: f"{e.kind}.{e.name}")
def test_settings_and_saving(entry: registry.Entry) -> None:
    part = CASES[entry.kind][entry.name]()
    modules = dict(part.named_modules()) if isinstance(part, nn.Module) else {}
    checks.check_component(part, {path: modules[path] for path in FOREIGN.get(entry.name, [])})


@pytest.mark.parametrize("name", sorted({**CASES["purifiers"], **CASES["restorers"]}))
def test_stages(name: str) -> None:
    checks.check_stage({**CASES["purifiers"], **CASES["restorers"]}[name]())


@pytest.mark.parametrize("name", sorted(CASES["denoisers"]))
def test_denoisers(name: str) -> None:
    checks.check_denoiser(CASES["denoisers"][name](), exact=name != "discrete_time")


@pytest.mark.parametrize("name", sorted(CASES["attacks"]))
def test_attacks(name: str) -> None:
    target = torch.randint(0, 2, (2, 16, 20), generator=torch.Generator().manual_seed(0))
    checks.check_attack(CASES["attacks"][name](), PixelSegmenter(), photos(), rr.tasks.Segmentation().untargeted(target))


@pytest.mark.parametrize("name", sorted(CASES["threats"]))
def test_threats(name: str) -> None:
    checks.check_threat(CASES["threats"][name]())


@pytest.mark.parametrize("name", sorted(CASES["degradations"]))
def test_degradations(name: str) -> None:
    checks.check_degradation(CASES["degradations"][name]())


class _Shouting(rr.Purifier):
    def run(self, images: torch.Tensor) -> torch.Tensor:
        images += 0.25
        return images


class _Blind(rr.Purifier):
    def run(self, images: torch.Tensor) -> torch.Tensor:
        return images.detach().round()


class _Dicey(rr.Purifier):
    def run(self, images: torch.Tensor) -> torch.Tensor:
        return images + 0.1 * torch.randn_like(images)


class _Lazy(rr.Attack):
    def __init__(self, threat: rr.Threat) -> None:
        self.threat = threat

    def run(self, model: object, images: torch.Tensor, objective: rr.Objective) -> torch.Tensor:
        return self.threat.random(images)


@pytest.mark.parametrize(
    ("stage", "promise"),
    [(_Shouting(), "left unchanged"), (_Blind(), "gradients flow"), (_Dicey(), "global generator")],
    ids=lambda v: type(v).__name__,
)
def test_checks_name_the_broken_promise_of_a_stage(stage: rr.Stage, promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        checks.check_stage(stage)


def test_checks_name_the_broken_promise_of_an_attack() -> None:
    target = torch.zeros(2, 16, 20, dtype=torch.long)
    with pytest.raises(AssertionError, match="global generator|lowered"):
        checks.check_attack(_Lazy(rr.Linf(0.05)), PixelSegmenter(), photos(), rr.tasks.Segmentation().untargeted(target))
