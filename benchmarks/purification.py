"""What diffusion purifiers are worth beside a blur, and what they cost: one table a set.

python benchmarks/purification.py --set camvid --data CAMVID [--auxiliary WEIGHTS] [--scale full] [--device cuda]
python benchmarks/purification.py --set mnist --data FOLDER        # the folder that holds mnist and weights
python benchmarks/purification.py --set photographs [--data PHOTOGRAPHS] [--auxiliary WEIGHTS]

Writes results/purification_SET.json. Can be killed and started again: what is done is kept in --progress. `--scale full` is for
a GPU: all images (of MNIST 512), PGD-50, 10 draws. A further set NAME is a module purifier_NAME.py with
`case(data, full, auxiliary)`.
"""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

import harness
import purifier_rows as parts
import purifier_sets


def moved(case: parts.Case, device: str) -> parts.Case:
    """The case on another device."""
    from dataclasses import replace

    for module in (case.model, case.denoiser, case.auxiliary, *case.alone.values(), *parts.FILTERS.values()):
        if isinstance(module, nn.Module):
            module.to(device)
    batches, tuning = (
        [(images.to(device), target.to(device)) for images, target in part] for part in (case.batches, case.tuning)
    )
    return replace(case, batches=batches, tuning=tuning)


def at(case: parts.Case, eps: float, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows, verdicts and settings at one size of the attack, after each group; `missing` names those still to come."""
    cells: parts.Cells = {}
    settings: dict[str, Any] = {}
    plan = list(parts.groups(case, eps))
    for done, group in enumerate(plan, 1):
        started = time.process_time()
        measured, report = parts.measured(case, eps, group, folder / f"{eps:.4f} {group.name}")
        for name, row in measured.items():
            cells.setdefault(name, {}).update(row)
        said = {"attacks": report.about["attacks"], "warnings": parts.warnings(report)}
        settings[group.name] = {**said, "defences": report.about["defences"]}
        print(f"{eps:.4f} {group.name}: {time.process_time() - started:.0f} s", flush=True)
        if parts.BARE not in cells:
            continue
        order = [parts.BARE, *(name for name in cells if name != parts.BARE)]
        full = parts.with_worst(case, {name: cells[name] for name in order})
        about = {key: report.about[key] for key in ("model", "task", "seed", "versions", "python", "intervals", "images")}
        told = {
            "rows": parts.rows(case, full),
            "verdicts": parts.verdicts(case, full),
            "missing": [g.name for g in plan[done:]],
        }
        yield {"about": about, "groups": settings, **told}


def kept(file: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that a file of results has already, or an exit if they come of other settings: a run would lose them."""
    if not file.is_file():
        return {}
    before, now = json.loads(file.read_text(encoding="utf-8")), json.loads(json.dumps(about))
    if other := sorted(key for key in {**before["about"], **now} if before["about"].get(key) != now.get(key)):
        raise SystemExit(
            f"--sizes: expected {file.name} to come of the same settings, it differs in {other}: measure all sizes"
        )
    sizes: dict[str, Any] = before["sizes"]
    return sizes


def main() -> None:
    parser = purifier_sets.arguments("purification", __doc__)
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--sizes", type=int, nargs="+", help="only these, counted from 0; others stay as they are")
    options = parser.parse_args()
    case = moved(purifier_sets.made(options.set, options.data, options.scale == "full", options.auxiliary), options.device)
    if wrong := [k for k in options.sizes or [] if not 0 <= k < len(case.eps)]:
        raise SystemExit(f"--sizes: expected numbers from 0 to {len(case.eps) - 1}, got {wrong}")
    if case.auxiliary is None:
        print("no AGDM row: it needs a robust network, --auxiliary WEIGHTS")
    folder = options.progress / f"{options.set}-{options.scale}-{options.device}"
    settings = case.settings() | {"thorough": list(case.thorough), "few": list(case.few)}
    content: dict[str, Any] = {
        "about": {**settings, "scale": options.scale, "machine": harness.machine(options.device)},
        "sizes": {},
    }
    if options.sizes:
        content["sizes"] |= kept(harness.RESULTS / f"purification_{options.set}.json", content["about"])
    for k in options.sizes or range(len(case.eps)):
        for found in at(case, case.eps[k], folder):
            content["sizes"][f"{case.eps[k]:.4f}"] = found
            harness.write(f"purification_{options.set}", content)
        print("\n".join(found["verdicts"]), flush=True)


if __name__ == "__main__":
    main()
