"""UAD-RS (Yu et al., 2024) on its first data set, UC Merced: seven oblivious attacks, purified at the level that ANLS chooses.

python benchmarks/aerial.py --ucmerced PATH --networks PATH [--progress FOLDER]

--networks holds aerial-NAME/weights.safetensors of training/aerial.py. The attacks are those of UAE-RS at their published size,
made against the bare network; the purifier is the bundled prior in one step. Of two halves of the test images, each has its
level chosen on the other, so no figure rests on images that its level was chosen on. Beside it: the level that labels would
choose, filters, the published chain (as many steps as the timestep), and attackers who know the purifier. Resumable.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import anls_cells as cells
import harness
import robustrestore as rr
import ucmerced
from robustrestore.calibrate import sigma_grid
from robustrestore.diffusion import DDPM, TimestepGrid
from robustrestore.metrics import frechet_distance
from robustrestore.modes import seeded

FILTERS = {"blur": rr.purifiers.Blur, "median": rr.purifiers.Median, "JPEG": rr.purifiers.Jpeg}
CHAINED = "I-FGSM"
TIMESTEPS = [0, 10, 20, 30, 50, 70, 100, 150]
LEVELS = [0.0, *sigma_grid(TIMESTEPS[1:])]


def attacks(name: str, model: rr.Adapted, root: Path) -> dict[str, rr.Attack]:
    """The seven of UAE-RS; the two that mix aim at features of the attacked network itself."""
    images, labels = ucmerced.split(root, "train")
    first = torch.stack([images[labels == k][0] for k in range(len(labels.unique()))])
    features, threat = ucmerced.shallow(name, model), rr.attacks.UaeRsFGSM().threat
    return {
        "FGSM": rr.attacks.UaeRsFGSM(),
        "I-FGSM": rr.attacks.UaeRsIFGSM(),
        "C&W": rr.attacks.UaeRsCW(),
        "TPGD": rr.attacks.UaeRsTPGD(),
        "Jitter": rr.attacks.UaeRsJitter(),
        "Mixup": rr.attacks.UaeRsMixup(threat, features, rr.attacks.Samples(first)),
        "Mixcut": rr.attacks.UaeRsMixcut(threat, features, rr.attacks.Samples(first[:10])),
    }


def share(hits: Tensor) -> list[float]:
    """The accuracy and its exact interval."""
    statistics = torch.stack([hits.double(), torch.ones_like(hits).double()], 1).numpy()
    metric = rr.metrics.accuracy()
    return [round(float(v), 4) for v in (metric.value(statistics), *metric.interval(statistics))]


def chosen(features: Tensor, clean: Tensor, half: Tensor) -> int:
    """ANLS: the place of the level whose features of these images are nearest to clean ones; the lowest of equals."""
    distances = [frechet_distance(rows[half], clean) for rows in features]
    return distances.index(min(distances))


def answers(case: cells.Case, model: nn.Module, images: Tensor) -> Tensor:
    with seeded(0), torch.no_grad():
        return torch.cat([model(x).argmax(1) for x in images.split(8)])


def crafted(case: cells.Case, attack: rr.Attack, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    pieces = zip(images.split(8), labels.split(8), strict=True)
    return torch.cat([attack(model, x, case.task.untargeted(y)) for x, y in pieces])


def row(case: cells.Case, swept: dict[str, Tensor], images: Tensor, labels: Tensor, clean: Tensor) -> dict[str, Any]:
    """One attack, or none: no defence, purified at the levels chosen either way, filters."""
    hits, (one, other) = swept["answers"] == labels, case.halves[0]
    places = {"first": chosen(swept[case.modules[0]], clean, other), "second": chosen(swept[case.modules[0]], clean, one)}
    honest = hits[places["first"]].clone()
    honest[other] = hits[places["second"]][other]
    found = {"no defence": share(hits[0]), "ANLS": share(honest), "label oracle": share(hits[int(hits.sum(1).argmax())])}
    for name, kind in FILTERS.items():
        found[name] = share(answers(case, rr.DefendedPipeline(case.model, [kind()]).eval(), images) == labels)
    oracle = int(hits.sum(1).argmax())
    chose = {"ANLS": [TIMESTEPS[k] for k in places.values()], "label oracle": TIMESTEPS[oracle]}
    return {"accuracy": found, "timesteps": chose, "by level": [round(float(v), 4) for v in hits.float().mean(1)]}


def purifier(timestep: int) -> rr.purifiers.Diffusion:
    level = sigma_grid([timestep])[0] if timestep else 0.0
    return rr.purifiers.Diffusion(rr.assets.prior(), sigma=level, steps=1, seed=None)


def adaptive(case: cells.Case, timestep: int, made: dict[str, rr.Attack], test: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """The same attack, made against the bare network and through the purifier, whose noise is fixed: the gradient is exact."""
    pipeline, found = rr.DefendedPipeline(case.model, [purifier(timestep).replace(seed=0)]).eval(), {}
    for name, attack in made.items():
        for view, target in (("oblivious", case.model), ("adaptive", pipeline)):
            images = crafted(case, attack, target, *test)
            found.setdefault(name, {})[view] = share(answers(case, pipeline, images) == test[1])
    return {"timestep": timestep, "accuracy": found}


def chain(case: cells.Case, timestep: int, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """DDPM from a level in as many steps as its timestep, as published, beside one step from there."""
    long = purifier(timestep).replace(steps=timestep, sampler=DDPM(grid=TimestepGrid()))
    found = {f"{stage.steps} steps": share(answers(case, rr.DefendedPipeline(case.model, [stage]).eval(), images) == labels)
             for stage in (purifier(timestep), long)}  # fmt: skip
    return {"timestep": timestep, "attack": CHAINED, "accuracy": found}


def study(name: str, root: Path, networks: Path, folder: Path) -> dict[str, Any]:
    """Everything about one network; what is done is kept in `folder`."""
    model = ucmerced.network(name, networks / f"aerial-{name}" / "weights.safetensors")
    case = cells.aerial(root, f"UC Merced, {name}", model, (ucmerced.POOLINGS[name],))
    images, labels = case.test()
    clean = cells.kept(folder / f"{name}-train.safetensors", lambda: cells.sweep(case, case.train(), [0.0], "train"))
    reference, rows, made = clean[case.modules[0]][0], {}, attacks(name, model, root)
    for what, attack in {"none": None, **made}.items():
        file = folder / f"{name}-{what.replace('&', '')}.safetensors"

        def make(attack: rr.Attack | None = attack, what: str = what) -> dict[str, Tensor]:
            found = images if attack is None else crafted(case, attack, model, images, labels)
            return {"images": found, **cells.sweep(case, found, LEVELS, f"{name}, {what}")}

        swept = cells.kept(file, make)
        rows[what] = row(case, swept, swept["images"], labels, reference)
    half, timestep = case.halves[0][0], max(max(rows[CHAINED]["timesteps"]["ANLS"]), 10)
    attacked = cells.kept(folder / f"{name}-{CHAINED}.safetensors", dict)["images"]
    known = {CHAINED: made[CHAINED], "PGD-10 at 4/255": rr.attacks.PGD(rr.Linf(4 / 255), steps=10)}
    rest = {"chain": lambda: chain(case, timestep, attacked[half], labels[half]),
            "adaptive": lambda: adaptive(case, timestep, known, (images[half], labels[half]))}  # fmt: skip
    for what, make_rest in rest.items():
        file = folder / f"{name}-{what}.json"
        if not file.exists():
            file.write_text(json.dumps(make_rest()), encoding="utf-8")
    return {"attacks": rows, **{what: json.loads((folder / f"{name}-{what}.json").read_text("utf-8")) for what in rest}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ucmerced", type=Path, required=True)
    parser.add_argument("--networks", type=Path, required=True)
    parser.add_argument("--progress", type=Path, default=Path(tempfile.gettempdir()) / "robustrestore-aerial")
    options = parser.parse_args()
    about = {
        **harness.machine(),
        "images": {"oblivious": 105, "chain": 53, "adaptive": 53},
        "size": ucmerced.SIZE,
        "classes": 21,
    }
    about |= {"timesteps": TIMESTEPS, "levels": LEVELS, "interval": "95 %, Clopper and Pearson", "seed": 0}
    about |= {"purifier": "bundled prior, one step, in bfloat16 for the sweeps"}
    found: dict[str, Any] = {}
    for name in ucmerced.NETWORKS:
        found[name] = study(name, options.ucmerced, options.networks, options.progress)
        harness.write("aerial", {"about": about, "networks": found})


if __name__ == "__main__":
    main()
