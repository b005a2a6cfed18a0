"""Purifiers, each beside the bare network calls that it cannot do without: for benchmarks/purifiers.py."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import robustrestore as rr
from robustrestore import diffusion, guidances, purifiers

STEPS, GUIDED, ITERATIONS = 10, 5, 5


@dataclass(frozen=True)
class Pair:
    """A purifier, and a loop over the same calls of the same networks on the same images, without anything between them."""

    stage: rr.Stage
    floor: Callable[[Tensor], object]
    calls: str


class Auxiliary(nn.Sequential):
    """A small classifier of 10 classes, for guidance and choices."""

    def __init__(self) -> None:
        widths = [(3, 32, 2), (32, 64, 2), (64, 64, 1)]
        body = [layer for i, o, s in widths for layer in (nn.Conv2d(i, o, 3, stride=s, padding=1), nn.ReLU())]
        super().__init__(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def networks(device: str) -> tuple[diffusion.SigmaUNet, nn.Module]:
    """The bundled prior and an auxiliary network with drawn weights, both frozen."""
    with rr.seeded(0):
        auxiliary = Auxiliary().eval().requires_grad_(False)
    return rr.assets.prior().to(device), auxiliary.to(device)


def unet(width: int = 32) -> diffusion.DiscreteTime:
    """diffusers' `UNet2DModel` of three levels with drawn weights, frozen; 1.6 million of them at width 32."""
    from diffusers import DDIMScheduler, UNet2DModel

    down = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
    with rr.seeded(0):
        network = UNet2DModel(
            64,
            block_out_channels=(width, 2 * width, 2 * width),
            layers_per_block=1,
            down_block_types=down,
            up_block_types=tuple(name.replace("Down", "Up") for name in down[::-1]),
            norm_num_groups=8,
        )
    return rr.integrations.diffusers.denoiser_from(network.eval().requires_grad_(False), DDIMScheduler())


def bare(prior: diffusion.Denoiser) -> Callable[[Tensor], Tensor]:
    """One call of the network of a denoiser that `networks` or `unet` made, and nothing else."""
    if isinstance(prior, diffusion.SigmaUNet):
        return lambda images: prior.body(images, images.new_zeros(len(images), 1, 1, 1))
    return lambda images: prior.network.unet(images, 100).sample


def pairs(prior: diffusion.Denoiser, auxiliary: nn.Module) -> dict[str, Pair]:
    """Every kind of purifier with a network in it."""
    call = bare(prior)

    def plain(times: int) -> Callable[[Tensor], object]:
        return lambda images: [call(images) for _ in range(times)]

    def chain(sampler: diffusion.Sampler, steps: int = STEPS, guidance: diffusion.Guidance | None = None) -> rr.Stage:
        return purifiers.Diffusion(prior, 0.1, steps, sampler, guidance=guidance)

    ddpm, few = diffusion.DDPM(), f"{GUIDED} calls"
    found = {
        "Denoise": Pair(purifiers.Denoise(prior), plain(1), "1 call"),
        "one step": Pair(chain(diffusion.OneStep()), plain(1), "1 call"),
        "DDIM": Pair(chain(diffusion.DDIM()), plain(STEPS), f"{STEPS} calls"),
        "DDPM": Pair(chain(ddpm), plain(STEPS), f"{STEPS} calls"),
        "DPM-Solver++": Pair(chain(diffusion.DPMSolverPP()), plain(STEPS), f"{STEPS} calls"),
        "VP-SDE (DiffPure)": Pair(chain(diffusion.VPSDE()), plain(STEPS), f"{STEPS} calls"),
        "VP-ODE": Pair(chain(diffusion.VPODE()), plain(STEPS), f"{STEPS} calls"),
        "DensePure": Pair(purifiers.DensePure(prior, 0.1, STEPS), plain(STEPS), f"{STEPS} calls"),
        "Rounds": Pair(purifiers.Rounds(chain(ddpm), [[0.05, 4], [0.1, 6]]), plain(10), "10 calls"),
        "Ensemble": Pair(purifiers.Ensemble(chain(ddpm, 5), 3), plain(15), "15 calls"),
        "guided by pixels (GDMP)": Pair(chain(ddpm, GUIDED, guidances.PixelGuidance()), plain(GUIDED), few),
        "guided by pixels, renoised": Pair(
            chain(ddpm, GUIDED, guidances.PixelGuidance(reference=guidances.Renoised())), plain(GUIDED), few
        ),
        "guided by SSIM (GDMP)": Pair(chain(ddpm, GUIDED, guidances.SSIMGuidance()), plain(GUIDED), few),
        "guided by frequencies (FreqPure)": Pair(chain(ddpm, GUIDED, guidances.FrequencyGuidance()), plain(GUIDED), few),
    }
    return found | _with_gradients(prior, auxiliary, chain)


def _with_gradients(prior: diffusion.Denoiser, auxiliary: nn.Module, chain: Callable[..., rr.Stage]) -> dict[str, Pair]:
    """Those that take a gradient through a network, and the choice among stages."""

    def backward(network: Callable[[Tensor], Tensor], images: Tensor) -> None:
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            torch.autograd.grad(network(leaf).sum(), leaf)

    body = bare(prior)

    def agdm(images: Tensor) -> None:
        for _ in range(GUIDED):
            body(images)
            backward(auxiliary, images)
            auxiliary(images)

    def on_estimate(images: Tensor) -> None:
        for _ in range(GUIDED):
            backward(lambda leaf: auxiliary(body(leaf)), images)
            auxiliary(images)

    def score_opt(images: Tensor) -> None:
        for _ in range(ITERATIONS):
            backward(body, images)

    def adaptive(images: Tensor) -> None:
        for _ in range(3):
            body(images)
            auxiliary(images)

    guidance, ddpm = guidances.AGDM(auxiliary), diffusion.DDPM()
    features, one = rr.Features(auxiliary, "7"), chain(diffusion.OneStep())
    shown = torch.rand(80, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(next(auxiliary.parameters()).device)
    stages = [one.replace(sigma=sigma) for sigma in (0.05, 0.1, 0.2)]
    each = f"{GUIDED} x (1 call; auxiliary network: forward, backward, and forward on the input)"
    return {
        "AGDM": Pair(chain(ddpm, GUIDED, guidance), agdm, each),
        "AGDM on the estimate": Pair(
            chain(ddpm, GUIDED, guidances.OnEstimate(guidance)), on_estimate, each.replace("(1 call", "(1 call and backward")
        ),
        "ScoreOpt": Pair(purifiers.ScoreOpt(prior, iterations=ITERATIONS), score_opt, f"{ITERATIONS} calls and backward"),
        "Adaptive": Pair(
            purifiers.Adaptive.of(stages, features, features.statistics(shown)),
            adaptive,
            "3 calls, the auxiliary network on each",
        ),
    }
