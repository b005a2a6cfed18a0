"""The DUCD recipe from the first query to the certificate, against a target behind a real HTTP server in another process.

python benchmarks/ducd.py [PART ...] --data FOLDER --work FOLDER        # FOLDER holds mnist, fashion_mnist, cifar10, camvid

select    the noise, once, on images held out for it, for each norm
main      certified accuracy of the smoothed surrogate beside the other ways, 500 digits, three seeds
norms     L1 and Linf with the frozen noise of each, beside Gaussian
study     agreement by queries, losses, kinds of query images
attacks   on what is deployed, and from it on the target
members   membership inference, an over-fitted target
maps      label maps and restored images: a DUCD-style extension

Without PART all of them in this order. Each keeps what it has in --work and adds itself to results/ducd.json. A killed run goes
on. The targets of seeds 0, 1, 2 take ports --port, + 1, + 2.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import ducd_asking as asking
import ducd_attacks
import ducd_maps
import ducd_members
import ducd_parts
import ducd_study
import harness
import robustrestore as rr
from robustrestore import certify, oracle

CANDIDATES: list[certify.Noise] = [
    *(certify.Gaussian(sigma) for sigma in (0.25, 0.5, 0.75, 1.0)),
    *(certify.Laplace(scale) for scale in (0.35, 0.53, 0.7)),  # standard deviations 0.5, 0.75, 1
    *(certify.Uniform(half) for half in (0.87, 1.3)),  # 0.5, 0.75
    certify.SSN(1.0),
]


def draws(options: argparse.Namespace) -> tuple[int, int]:
    """To choose the class, and to test it."""
    return max(10, options.draws // 10), options.draws


def name_of(noise: certify.Noise) -> str:
    return "-".join(str(v) for v in (noise.name, *noise.settings().values()))


def surrogate_for(
    noise: certify.Noise | None, url: str, seed: int, options: argparse.Namespace, gap: oracle.Gap | None = None
) -> torch.nn.Module:
    """The surrogate that was, or is, trained under this noise on the pool of queries, by L1 unless a gap is given."""
    images, _ = ducd_parts.digits(options.data / "mnist", ducd_parts.POOL)
    asked = asking.asking(url, options.work / f"answers-{seed}.db", budget=options.queries)
    asked(images[: options.queries])
    name = ("plain" if noise is None else name_of(noise)) + ("" if gap is None else f"-{gap.name}")
    place = options.work / f"surrogate-{seed}-{name}.safetensors"
    return asking.distilled(asked, images[: options.queries], place, seed, noise, gap=gap, steps=options.steps)


def select(options: argparse.Namespace) -> dict[str, Any]:
    """By average certified radius on the selection images, one choice a norm; the target of seed 0."""
    images, labels = ducd_parts.digits(options.data / "mnist", ducd_parts.SELECT)
    with asking.served("digits", options, 0) as url:
        models = [surrogate_for(noise, url, 0, options) for noise in CANDIDATES]
    smoothed = [certify.SmoothedClassifier(model, noise, 64) for model, noise in zip(models, CANDIDATES, strict=True)]
    batches = [(images[: options.images], labels[: options.images])]
    found: dict[str, Any] = {}
    for norm in certify.NORMS:
        choice = certify.select_noise(
            smoothed, batches, norm, (options.draws // 10, options.draws), folder=options.work / "select"
        )
        found[norm] = {**choice.about(), "place": choice.place, "about": choice.noise.config()}
    return found


def chosen(options: argparse.Namespace, norm: str) -> certify.Noise:
    """The frozen choice."""
    return certify.Noise.of(json.loads((options.work / "select.json").read_text())[norm]["about"])


def test_images(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = ducd_parts.digits(options.data / "mnist", ducd_parts.TEST, "test_first5000")
    return images[: options.images], labels[: options.images]


def networks(options: argparse.Namespace, seed: int, url: str, noise: certify.Gaussian) -> dict[str, torch.nn.Module]:
    """What is compared with the target by queries: surrogates, the twin that an owner can train, the denoiser."""
    owned = ducd_parts.digits(options.data / "mnist", ducd_parts.OWNED)
    with rr.seeded(seed):
        twin = ducd_parts.target()
    place = options.work / f"twin-{seed}.safetensors"
    ducd_parts.kept(place, twin, lambda: ducd_parts.taught(twin, owned, options.epochs, seed, noise.sigma, 2))
    surrogate, plain = (surrogate_for(one, url, seed, options) for one in (noise, None))
    kinds = {"surrogate": surrogate, "white-box twin": twin, "surrogate without noise": plain}
    if seed >= options.thorough:
        return kinds
    by_kl = surrogate_for(noise, url, seed, options, oracle.KLGap())
    with rr.seeded(seed):
        front = ducd_parts.Denoiser(plain)
    images, _ = ducd_parts.digits(options.data / "mnist", ducd_parts.POOL)
    asked = asking.asking(url, options.work / f"answers-{seed}.db", budget=options.queries)
    place = options.work / f"denoiser-{seed}.safetensors"
    asking.distilled(asked, images[: options.queries], place, seed, noise, front, steps=options.steps)
    return {**kinds, "surrogate by KL": by_kl, "denoiser": front}


def compared(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One target, its surrogate and the other ways: the same noise, images, n and alpha."""
    noise, test, work = chosen(options, "l2"), test_images(options), options.work
    if not isinstance(noise, certify.Gaussian):
        raise SystemExit(f"the noise of L2: expected Gaussian, for the twin is trained under it, got {noise!r}")
    held, _ = ducd_parts.digits(options.data / "mnist", ducd_parts.HELD, "test_first5000")
    rows = {}
    with asking.served("digits", options, seed) as url:
        found = networks(options, seed, url, noise)
        asked = asking.asking(url, work / f"answers-{seed}.db")
        paid = {"answered": asked.answered, "sent": asked.sent}
        evaluation = asking.asking(url, work / f"evaluation-{seed}.db")
        judged = {name: model for name, model in found.items() if name.startswith("surrogate")}
        agreed = {name: asking.agreement(evaluation, model, noise, held) for name, model in judged.items()}
        for name, model in {**found, "target by queries": asking.asking(url, None)}.items():
            folder = work / f"main-{seed}" / name.replace(" ", "_")
            report = asking.certified(model, noise, test, draws(options), folder, seed)
            clean = ducd_parts.accuracy(evaluation if name == "target by queries" else model, *test)
            rows[name] = {"clean": clean, "figures": asking.figures(report, "l2")}
            print(f"seed {seed}, {name}: clean {clean:.3f}, ACR {report.acr('l2')['value']:.3f}", flush=True)
    spent = sum(draws(options)) * len(test[0])
    return {"queries": paid, "agreement": agreed, "held out": len(held), "rows": rows, "queries by smoothing the target": spent}


def main_part(options: argparse.Namespace) -> dict[str, Any]:
    return {"noise": repr(chosen(options, "l2")), "seeds": {str(s): compared(options, s) for s in range(options.seeds)}}


def norms(options: argparse.Namespace) -> dict[str, Any]:
    """The frozen noise of each norm, and the Gaussian that was best in it on the selection images."""
    known, test = json.loads((options.work / "select.json").read_text()), test_images(options)
    pairs = {norm: (known[norm]["place"], _best_gaussian(known[norm])) for norm in certify.NORMS}
    needed = sorted({place for pair in pairs.values() for place in pair})
    reports: dict[tuple[int, int], certify.CertifiedReport] = {}
    for seed in range(options.seeds):
        with asking.served("digits", options, seed) as url:
            models = {place: surrogate_for(CANDIDATES[place], url, seed, options) for place in needed}
        for place, model in models.items():
            same = place == known["l2"]["place"]  # certified in the part `main` already
            folder = options.work / (f"main-{seed}/surrogate" if same else f"norms-{seed}/{name_of(CANDIDATES[place])}")
            reports[place, seed] = asking.certified(model, CANDIDATES[place], test, draws(options), folder, seed)
    found: dict[str, Any] = {}
    for norm, pair in pairs.items():
        rows = {}
        for place in dict.fromkeys(pair):
            figures = [asking.figures(reports[place, seed], norm) for seed in range(options.seeds)]
            rows[repr(CANDIDATES[place])] = {"tightness": CANDIDATES[place].tightness(norm), "figures": figures}
        found[norm] = {"chosen": repr(CANDIDATES[pair[0]]), "Gaussian": repr(CANDIDATES[pair[1]]), "rows": rows}
        print(norm, {k: [round(f["ACR"]["value"], 4) for f in r["figures"]] for k, r in rows.items()}, flush=True)
    return found


def _best_gaussian(choice: dict[str, Any]) -> int:
    """The place of the Gaussian candidate with the largest average certified radius on the selection images."""
    values = [row["acr"]["value"] for row in choice["candidates"]]
    return max((k for k, one in enumerate(CANDIDATES) if isinstance(one, certify.Gaussian)), key=values.__getitem__)


PARTS = {
    "select": select,
    "main": main_part,
    "norms": norms,
    "study": ducd_study.study,
    "attacks": ducd_attacks.attacks,
    "members": ducd_members.members,
    "maps": ducd_maps.maps,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=(*PARTS, []), default=[])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/ducd"))
    parser.add_argument("--images", type=int, default=500, help="test images that are certified")
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=asking.STEPS)
    parser.add_argument("--epochs", type=int, default=12, help="of the twin")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--thorough", type=int, default=3, help="of the seeds, so many with the denoiser and the KL row")
    parser.add_argument("--port", type=int, default=8731)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.parts or PARTS:
        started = time.process_time()
        found = PARTS[name](options)
        print(f"{name}: {time.process_time() - started:.0f} s", flush=True)
        (options.work / f"{name}.json").write_text(json.dumps(found, indent=1))
    settings = {k: getattr(options, k) for k in ("images", "draws", "queries", "steps", "epochs")}
    done = {name: json.loads(p.read_text()) for name in PARTS if (p := options.work / f"{name}.json").is_file()}
    about = {**harness.machine(), **settings, "alpha": 0.001}
    harness.write("ducd" if options.images >= 100 else "ducd_trial", {"about": about, **done})


if __name__ == "__main__":
    main()
