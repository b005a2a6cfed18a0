"""The part `attacks` of ducd.py: on the smoothed surrogate as it is deployed, and from it on the target."""

import argparse
import json
from typing import Any

import torch
from torch import Tensor, nn

import ducd_asking as asking
import ducd_parts
import robustrestore as rr
from robustrestore import certify

SIZES = (0.5, 1.0, 2.0)  # L2
IMAGES, DRAWS, QUERIES, VOTES = 100, 32, 200, 1000


class Averaged(nn.Module):
    """The mean probabilities over `draws` noisy copies, fresh in each call, as logarithms: what PGD with EOT differentiates."""

    def __init__(self, model: nn.Module, noise: certify.Noise, draws: int) -> None:
        super().__init__()
        self.model, self.noise, self.draws = model, noise, draws

    def forward(self, images: Tensor) -> Tensor:
        many = images.repeat_interleave(self.draws, 0)
        scores = self.model(self.noise.applied(many, self.noise.sample_like(many)))
        return scores.log_softmax(1).unflatten(0, (len(images), self.draws)).logsumexp(1)


def _made(attack: rr.Attack, model: Any, images: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """Attacked images; noisy ones on the way lie outside [0, 1], and that is meant."""
    with rr.seeded(seed), rr.images.trusted():
        pairs = zip(images.split(50), labels.split(50), strict=True)
        return torch.cat([attack(model, some, asking.TASK.untargeted(truth)) for some, truth in pairs])


def _deployed(
    smoothed: certify.SmoothedClassifier, moved: Tensor, labels: Tensor, rows: list[dict[str, Any]], eps: float
) -> Any:
    """How the smoothed surrogate answers attacked images, and whether any certificate was broken."""
    said = [one.prediction for one in smoothed.predict(moved, VOTES, seed=None)]
    right = [p == int(label) for p, label in zip(said, labels, strict=True)]
    promised = [row["prediction"] is not None and row["radius"]["l2"] > eps for row in rows]
    broken = sum(ok and p is not None and p != row["prediction"] for ok, p, row in zip(promised, said, rows, strict=True))
    unsure = sum(ok and p is None for ok, p in zip(promised, said, strict=True))
    return {
        "accuracy": sum(right) / len(right),
        "abstained": sum(p is None for p in said) / len(said),
        "certified there": sum(promised),
        "broken": broken,
        "of those abstained": unsure,
    }


def _at(eps: float, models: dict[str, nn.Module], target: Any, data: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], ...]:
    """Images made against the deployed surrogate, and those for the target, at one size."""
    size = rr.L2(max(eps, 1e-6))
    pgd, square = rr.attacks.PGD(size, steps=20), rr.attacks.Square(size, queries=QUERIES, loss=rr.losses.Margin())
    moved = {"PGD-20, EOT": _made(pgd, models["averaged"], *data), "Square": _made(square, models["averaged"], *data)}
    shown = {
        "made on the smoothed surrogate": moved["PGD-20, EOT"],
        "made on a surrogate without noise": _made(pgd, models["plain"], *data),
        "noise of that size": _made(rr.attacks.GaussianNoise(size), models["plain"], *data),
        "Square, by queries": _made(square, target, *data),
    }
    return moved, shown


def _sizes(options: argparse.Namespace, url: str, noise: certify.Noise, rows: list[dict[str, Any]]) -> dict[str, Any]:
    data = ducd_parts.digits(options.data / "mnist", ducd_parts.TEST, "test_first5000")
    images, labels = (part[: options.attacked] for part in data)
    places = {"surrogate": f"surrogate-0-{options.named}.safetensors", "plain": "surrogate-0-plain.safetensors"}
    models = {k: ducd_parts.kept(options.work / p, ducd_parts.surrogate(), lambda: None) for k, p in places.items()}
    target = asking.asking(url, options.work / "attacks.db")
    smoothed = certify.SmoothedClassifier(models["surrogate"], noise, 64)
    models["averaged"] = Averaged(models["surrogate"], noise, DRAWS)
    found: dict[str, Any] = {}
    for eps in (0.0, *SIZES):
        moved, shown = _at(eps, models, target, (images, labels))
        certified = sum(r["prediction"] == r["target"] and r["radius"]["l2"] > eps for r in rows) / len(rows)
        found[f"{eps:g}"] = {
            "deployed": {name: _deployed(smoothed, x, labels, rows, eps) for name, x in moved.items()},
            "target": {name: ducd_parts.accuracy(target, x, labels) for name, x in shown.items()},
            "certified accuracy": certified,
        }
        print(eps, found[f"{eps:g}"], flush=True)
    found["queries for the attacks"] = target.sent
    return found


def attacks(options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy under attack beside what was certified on the same images, and what transfers to the target; seed 0."""
    about = json.loads((options.work / "select.json").read_text())["l2"]["about"]
    noise = certify.Noise.of(about)
    options.attacked = min(IMAGES, options.images)
    options.named = "-".join(str(v) for v in (noise.name, *noise.settings().values()))
    report = json.loads((options.work / "main-0" / "surrogate" / "certified.json").read_text())
    with asking.served("digits", options, 0) as url:
        found = _sizes(options, url, noise, report["rows"][: options.attacked])
    return {
        "images": options.attacked,
        "noise": repr(noise),
        "draws": DRAWS,
        "queries": QUERIES,
        "votes": VOTES,
        "sizes": found,
    }
