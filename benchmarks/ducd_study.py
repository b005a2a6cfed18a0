"""The part `study` of ducd.py: agreement with the target by number of queries, by loss and tier, by kind of query images."""

import argparse
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

import ducd_asking as asking
import ducd_parts
import robustrestore as rr
from robustrestore import certify, oracle

BUDGETS = (100, 300, 1000, 3000, 10_000)
SMALL, STEPS = 1000, 400  # queries of the comparisons; steps of each training
VOTES, VOTED = 10, certify.Gaussian(0.25)  # copies an image is shown in; under more noise this target is at a loss
Set = Tensor | Dataset[Any]


def _stacked(data: Dataset[Any]) -> Tensor:
    return torch.stack([data[k] for k in range(len(data))])  # type: ignore[arg-type]


def _losses(
    url: str, images: Tensor, noise: certify.Noise, options: argparse.Namespace
) -> Iterator[tuple[str, Any, Tensor, Any]]:
    """(name, oracle, images, loss): each pays for `SMALL` queries."""

    def of(path: str, tier: oracle.Tier) -> oracle.Queried:
        return asking.asking(f"{url}/{path}", options.work / f"study-{path or 'logits'}.db", tier, options.small)

    logits, few = of("", oracle.Logits()), options.small
    yield "logits, L1 (DUCD)", logits, images[:few], None
    yield "logits, KL", logits, images[:few], oracle.KLGap()
    yield "logits, cross-entropy of the largest", logits, images[:few], oracle.LabelGap()
    yield "probabilities, centred L1", of("probabilities", oracle.Probabilities()), images[:few], None
    labels = of("labels", oracle.Labels())
    yield "labels, cross-entropy", labels, images[:few], None
    copies = asking.asking(f"{url}/labels", options.work / "study-votes-0.25.db", oracle.Labels(), few)
    votes = oracle.Queried(oracle.Votes(copies, 10, VOTED, VOTES), oracle.Probabilities())
    yield f"labels of {VOTES} copies under {VOTED!r}, centred L1", votes, images[: few // VOTES], None


def _sources(
    images: Tensor, noise: certify.Noise, options: argparse.Namespace
) -> Iterator[tuple[str, Tensor, certify.Noise | None]]:
    """(name, images, noise of the training): `SMALL` queries each."""
    few, tenth = options.small, options.small // 10
    base = TensorDataset(images[:tenth])
    fashion, _ = ducd_parts.digits(options.data / "fashion_mnist", slice(0, few), "train_1000")
    yield "digits", images[:few], noise
    yield "digits, the target asked about noisy copies", _stacked(rr.data.Noisy(TensorDataset(images[:few]), noise)), None
    yield f"{tenth} digits alone", images[:tenth], noise
    mixed = ConcatDataset([rr.data.Unlabelled(base), rr.data.Mixed(base, few - tenth)])
    yield f"{tenth} digits and their mixtures", _stacked(mixed), noise
    yield "Fashion-MNIST", fashion, noise
    yield "random fields, no data", _stacked(rr.data.RandomFields(few, (1, 28, 28))), noise


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Three tables of agreement on the held-out digits; the target of seed 0."""
    options.small = min(SMALL, options.queries)
    steps = min(STEPS, options.steps)
    noise = certify.Noise.of(json.loads((options.work / "select.json").read_text())["l2"]["about"])
    images, _ = ducd_parts.digits(options.data / "mnist", ducd_parts.POOL)
    held, _ = ducd_parts.digits(options.data / "mnist", ducd_parts.HELD, "test_first5000")
    found: dict[str, Any] = {
        "noise": repr(noise),
        "steps": steps,
        "small": options.small,
        "budgets": {},
        "losses": {},
        "sources": {},
    }
    with asking.served("digits", options, 0) as url:
        judge = asking.asking(url, options.work / "evaluation-0.db")
        asked = asking.asking(url, options.work / "study-pool.db")

        def one(name: str, source: oracle.Queried, shown: Tensor, law: certify.Noise | None, seed: int, gap: Any = None) -> Any:
            place = options.work / "study" / f"{name} {seed}.safetensors"
            return asking.agreement(judge, asking.distilled(source, shown, place, seed, law, gap=gap, steps=steps), noise, held)

        for budget in (b for b in BUDGETS if b <= options.queries):
            found["budgets"][str(budget)] = [one(f"budget {budget}", asked, images[:budget], noise, 0)]
        for name, source, shown, gap in _losses(url, images, noise, options):
            found["losses"][name] = [one(f"loss {name}", source, shown, noise, seed, gap) for seed in range(options.seeds)]
        for name, shown, law in _sources(images, noise, options):
            extra = asking.asking(url, options.work / "study-sources.db")
            found["sources"][name] = [one(f"source {name}", extra, shown, law, 0)]
    _said(found)
    return found


def _said(found: dict[str, Any], show: Callable[[str], None] = print) -> None:
    for table in ("budgets", "losses", "sources"):
        for name, rows in found[table].items():
            show(f"{table} {name}: {[[round(v, 3) for v in row.values()] for row in rows]}")
