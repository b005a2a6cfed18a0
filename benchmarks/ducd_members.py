"""The part `members` of ducd.py: what a target, its surrogate and the smoothed surrogate tell of the target's training images.

The target knows 1,000 CIFAR-10 images by heart, on purpose, so that membership inference has something to find. Shadows of LiRA
repeat what was done: each trains a target of its own, and for the surrogate distils it too.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ducd_asking as asking
import ducd_parts
import robustrestore as rr
from robustrestore import certify, oracle, privacy

NOISE = certify.Gaussian(0.1)
SHADOWS, STEPS, VOTES = 4, 300, 50


def _surrogate(asked: oracle.Queried, images: Tensor, place: Path, seed: int, steps: int) -> nn.Module:
    with rr.seeded(seed):
        network = ducd_parts.small_cnn(16)
    return asking.distilled(asked, images, place, seed, NOISE, network, steps=steps)


def _shadows(pool: tuple[Tensor, Tensor], queries: Tensor, options: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """Shadow targets, and a surrogate of each."""
    places = iter(range(options.shadows))
    targets: list[nn.Module] = []

    def train(inside: Tensor) -> nn.Module:
        seed = 100 + next(places)
        with rr.seeded(seed):
            network = ducd_parts.small_cnn(24)
        own = (pool[0][inside], pool[1][inside])
        place = options.work / "members" / f"shadow-{seed}.safetensors"
        targets.append(ducd_parts.kept(place, network, lambda: ducd_parts.taught(network, own, options.by_heart, seed)))
        return targets[-1]

    found = privacy.train_shadows(train, len(pool[1]), options.shadows)
    steps = min(STEPS, options.steps)
    pupils = []
    for number, one in enumerate(found):
        place = options.work / "members" / f"pupil-{number}.safetensors"
        pupil = _surrogate(oracle.Queried(one.model, batch=256), queries, place, 200 + number, steps)
        pupils.append(privacy.Shadow(pupil, one.inside))
    return found, pupils


def members(options: argparse.Namespace) -> dict[str, Any]:
    """Attacks by target; what the classifiers are worth; how many queries are members."""
    parts = (ducd_parts.MEMBERS, ducd_parts.OTHERS, ducd_parts.ASKED)
    inside, others, apart = (ducd_parts.pictures(options.data / "cifar10", part) for part in parts)
    if options.images < 100:  # a trial
        inside, others, apart = (tuple(t[: 4 * options.images] for t in part) for part in (inside, others, apart))
    options.shadows, options.by_heart = (SHADOWS, ducd_parts.BY_HEART) if options.images >= 100 else (4, 2)
    half = len(apart[0]) // 2
    queries = {"other queries": apart[0], "members among the queries": torch.cat([inside[0][:half], apart[0][:half]])}
    steps = min(STEPS, options.steps)
    with asking.served("overfitted", options, 0) as url:
        told = asking.asking(url, options.work / "members-judge.db")
        models: dict[str, Callable[[Tensor], Tensor]] = {"target": told}
        shared = {}
        for name, images in queries.items():
            asked = asking.asking(url, options.work / "members.db")
            model = _surrogate(asked, images, options.work / "members" / f"{name}.safetensors", 0, steps)
            models[f"surrogate, {name}"] = model
            models[f"smoothed surrogate, {name}"] = privacy.VoteScores(certify.SmoothedClassifier(model, NOISE, 64), VOTES)
            shared[name] = sum(bool((images == one).flatten(1).all(1).any()) for one in inside[0])
        worth = {k: [ducd_parts.accuracy(m, *side) for side in (inside, others)] for k, m in models.items()}
        attacks = _attacks(models, (torch.cat([inside[0], others[0]]), torch.cat([inside[1], others[1]])), apart[0], options)
        report = privacy.membership(models, [inside], [others], attacks, progress=lambda *done: print(*done, flush=True))
    report.save(options.work / "members")
    print(report, flush=True)
    return {
        **json.loads(report.json()),
        "noise": repr(NOISE),
        "votes": VOTES,
        "shadows": options.shadows,
        "queries": {name: len(images) for name, images in queries.items()},
        "members among the queries": shared,
        "accuracy inside, outside": worth,
    }


def _attacks(
    models: dict[str, Any], pool: tuple[Tensor, Tensor], queries: Tensor, options: argparse.Namespace
) -> dict[str, list[privacy.MembershipAttack]]:
    """Those of one score for all, and LiRA where shadows were made: the target, and the surrogate of other queries."""
    single = [privacy.Gap(), privacy.Confidence(), privacy.Entropy(), privacy.ModifiedEntropy()]
    found: dict[str, list[privacy.MembershipAttack]] = {name: [*single] for name in models}
    shadows, pupils = _shadows(pool, queries, options)
    found["target"].append(privacy.LiRA(shadows))
    found["surrogate, other queries"].append(privacy.LiRA(pupils))
    return found
