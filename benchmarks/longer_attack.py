"""Does a longer attack bring AGDM lower? PGD that knows the noise, with more steps, on the images of the set's table.

python benchmarks/longer_attack.py --set camvid --data CAMVID --auxiliary WEIGHTS [--steps 40] [--device cuda]

AGDM beside the models that are rows by themselves, the filters and the chain without guidance, all under the same attack; and
AGDM under attacks made on those models and on that chain, none of which differentiates the guidance. Sets, data and weights as
for purification.py, whose table of the same settings has to be there. Writes results/longer_attack_SET.json. Can be killed and
started again: what is done is kept in --progress.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import purifier_rows as parts
import purifier_sets
import robustrestore as rr
from purification import moved
from robustrestore.verdict import compare, worst_case

WORST = "AGDM, worst of its rows"


def longer(case: parts.Case, folder: Path) -> dict[str, Any]:
    """Rows under `case.attack_steps` steps, and what they say in words; resumable in `folder`."""
    eps, cells, stages = case.eps[0], {}, parts.chains(case, 0)
    chains = {name: stage for name, stage in stages.items() if name == "DDPM" or name.startswith("AGDM")}
    plan = [
        *(parts.Group(name, {}, model=model) for name, model in case.alone.items()),
        parts.Group("filters", parts.FILTERS, views=("adaptive",)),
        parts.Group("chains", chains, views=("adaptive",), column=parts.KNOWN),
    ]
    warned: list[str] = []
    for group in plan:
        found, report = parts.measured(case, eps, group, folder / group.name)
        cells |= found
        warned += parts.warnings(report)
        print(f"{group.name}: done", flush=True)
    unguided = replace(case, alone={**case.alone, "DDPM": rr.DefendedPipeline(case.model, [stages["DDPM"]])})
    group = parts.Group("AGDM transferred", {"AGDM": stages["AGDM"]}, views=[f"from {name}" for name in unguided.alone])
    found, report = parts.measured(unguided, eps, group, folder / group.name)
    cells |= {f"AGDM, attack {view}": {"adaptive": found["AGDM"][view]} for view in group.views}
    of_agdm = [cells["AGDM"][parts.KNOWN], *(found["AGDM"][view] for view in group.views)]
    cells[WORST] = {"adaptive": worst_case(case.task.metrics(), of_agdm)}
    about = {key: report.about[key] for key in ("images", "attacks", "defences", "seed")}
    said = {"warnings": list(dict.fromkeys(warned + parts.warnings(report))), "verdicts": verdicts(case, cells)}
    return {"about": about, **said, "rows": parts.rows(case, cells)}


def verdicts(case: parts.Case, cells: parts.Cells) -> list[str]:
    """AGDM against every other row, attack for attack and then in the worst of its own.

    And each of its terms against the unguided chain, each model against the best filter.
    """
    metric = case.task.metrics()[0]
    scored = {name: row.get(parts.KNOWN, row.get("adaptive"))[metric.name] for name, row in cells.items()}
    others = [name for name in scored if not name.startswith("AGDM")]
    best = max(parts.FILTERS, key=lambda name: metric.value(scored[name]))
    terms = [name for name, row in cells.items() if name.startswith("AGDM, ") and parts.KNOWN in row]
    pairs = [(mine, other) for mine in ("AGDM", WORST) for other in others]
    pairs += [(term, "DDPM") for term in terms] + [(name, best) for name in case.alone]
    return [compare(metric, scored[a], scored[b], f"PGD-{case.attack_steps}, {a}, against {b}") for a, b in pairs]


def check_table(file: Path, settings: Mapping[str, Any]) -> None:
    """An exit unless the set's table is there, comes of the same settings and of a shorter attack."""
    if not file.is_file():
        raise SystemExit(f"expected the set's table {file.name}, found none: run purification.py first")
    table, now = json.loads(file.read_text(encoding="utf-8"))["about"], json.loads(json.dumps(settings))
    if other := sorted(key for key in now if key != "attack_steps" and table.get(key) != now[key]):
        raise SystemExit(f"expected {file.name} of the same settings, it differs in {other}: run purification.py again")
    if now["attack_steps"] <= table["attack_steps"]:
        raise SystemExit(f"--steps: expected more than the table's {table['attack_steps']}, got {now['attack_steps']}")


def main() -> None:
    parser = purifier_sets.arguments("longer-attack", __doc__)
    parser.add_argument("--steps", type=int, default=40, help="of PGD; the length of each stays as in the table")
    options = parser.parse_args()
    case = moved(replace(purifier_sets.guided(options), attack_steps=options.steps), options.device)
    settings = {key: value for key, value in case.settings().items() if key not in ("fewer", "runs", "samples")}
    check_table(harness.RESULTS / f"purification_{options.set}.json", settings)
    content = longer(case, options.progress / f"{options.set} {options.device} {options.steps}")
    content["about"] |= {**settings, "eps": case.eps[0], "machine": harness.machine(options.device)}
    harness.write(f"longer_attack_{options.set}", content)
    print("\n".join(content["verdicts"]))


if __name__ == "__main__":
    main()
