"""The restorers of the table: one trained on simulated pairs, and what it is tuned into, at equal numbers of steps."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

import robustrestore as rr
from robustrestore import diffusion, purifiers
from udc_data import Pairs

TASK = rr.tasks.Restoration()
MORE = 22 / 255  # where the range of the paper begins: 50 of 1000 steps


@dataclass(frozen=True)
class Scale:
    """All sizes. `steps`: of the restorer's training; `tune`: of every tuning, with `seeds` of them each.

    `images`, `judged`: test images, and those that choose settings. `few`: test images of the costly attacks (C&W, black box).
    `queries`: of a black-box attack. `searches`, `descent`: of C&W.
    """

    width: int = 16
    steps: int = 6000
    tune: int = 400
    batch: int = 8
    crop: int = 64
    window: int = 128
    view: int = 96
    images: int = 16
    judged: int = 16
    few: int = 8
    seeds: int = 3
    attack_steps: int = 20
    queries: int = 100
    searches: int = 9
    descent: int = 20


SCALES = {
    "small": Scale(),
    "full": Scale(32, 100_000, 10_000, 16, 128, 288, 256, 38, 30, 38, 3, 50, 5000, 9, 100),
}


class AsItIs(nn.Module):
    """A denoiser that removes nothing: diffusion with it adds noise of the level, and no more."""

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return noisy


@dataclass(frozen=True)
class Strengths:
    """What the choice on images set aside came to: noise of the purifier, width of the blur, quality of JPEG."""

    sigma: float = 0.03
    blur: float = 0.8
    quality: int = 75

    def stage(self, name: str) -> rr.Stage | None:
        """The stage before the restorer, as it is scored: with a seed, so that an attacker knows every draw."""
        makers: Mapping[str, Callable[[], rr.Stage | None]] = {
            "none": lambda: None,
            "blur": lambda: purifiers.Blur(self.blur),
            "median": purifiers.Median,
            "JPEG": lambda: purifiers.Jpeg(self.quality),
            "purify": lambda: purifiers.Diffusion.default().replace(sigma=self.sigma),
            "purify more": lambda: purifiers.Diffusion.default().replace(sigma=MORE),
            "noise": lambda: purifiers.Diffusion(diffusion.NoiseConditioned(AsItIs()), self.sigma, 1),
        }
        return makers[name]()

    def range(self, name: str) -> tuple[float, float]:
        """What tuning draws strengths from: half as much more or less."""
        middle = {"blur": self.blur, "purify more": MORE}.get(name, self.sigma)
        return 0.5 * middle, 1.5 * middle


def restorer(train: Pairs, scale: Scale, folder: Path) -> rr.Restorer:
    """Trained on the pairs alone; done already, it is read from the folder."""
    with rr.seeded(0):
        net = rr.restorers.UNet(width=scale.width)
    plan = rr.Plan(scale.steps, scale.batch, rr.AdamW(lr=1e-3), precision="bf16")
    rr.fit(rr.recipes.Plain(net, TASK), train.crops(scale.crop), plan, folder=folder)
    return net


ATTACK = rr.attacks.PGD(rr.Linf(4 / 255), steps=3, step=2 / 255, seed=None)
TUNED = ("clean", "attacked", "purify", "purify, attack through both", "purify more", "blur", "noise")


def tuned(
    name: str, base: rr.Restorer, train: Pairs, scale: Scale, strengths: Strengths, seed: int, folder: Path
) -> rr.Restorer:
    """The restorer tuned in one way of TUNED: "clean" and "attacked" alone, the others behind the stage of that name.

    Half of each batch is attacked, by three steps of 2/255 within 4/255; but for "clean". Learning rate 3e-4.
    """
    net = copy.deepcopy(base)
    plan = rr.Plan(scale.tune, scale.batch, rr.AdamW(lr=3e-4), average=0.99, precision="bf16", seed=seed)
    place = name.split(",")[0]
    pipeline = rr.DefendedPipeline(net, [] if name in ("clean", "attacked") else [strengths.stage(place)])
    recipe: rr.Recipe
    if name == "clean":
        recipe = rr.recipes.Plain(pipeline, TASK)
    elif name == "attacked":
        recipe = rr.recipes.AdversarialTraining(pipeline, TASK, ATTACK, share=0.5)
    else:
        through = "" if "both" in name else "model"
        recipe = rr.recipes.PurifyFinetune(pipeline, TASK, ATTACK, strengths.range(place), through=through)
    rr.finetune(pipeline, train.crops(scale.crop), recipe, plan, folder=folder)
    return net
