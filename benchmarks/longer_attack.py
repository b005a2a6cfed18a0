"""Does a longer attack bring AGDM lower? PGD that knows the noise, with more steps, on the images of the set's table.

python benchmarks/longer_attack.py --set camvid --data CAMVID --auxiliary WEIGHTS [--steps 40] [--device cuda]

AGDM beside the models that are rows by themselves, the filters and the chain without guidance, all under the same attack; and
AGDM under attacks made on those models and on that chain, which know nothing of its guidance. The sentences take the worst of
all these for AGDM. Sets, data and weights as for purification.py, whose table has to be there. Writes
results/longer_attack_SET.json. Can be killed and started again: what is done is kept in --progress.
"""

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
    """Rows under `case.attack_steps` steps, and AGDM compared with every other; resumable in `folder`."""
    eps, cells, stages = case.eps[0], {}, parts.chains(case, 0)
    plan = [
        *(parts.Group(name, {}, model=model) for name, model in case.alone.items()),
        parts.Group("filters", parts.FILTERS, views=("adaptive",)),
        parts.Group("chains", {name: stages[name] for name in ("DDPM", "AGDM")}, views=("adaptive",), column=parts.KNOWN),
    ]
    for group in plan:
        cells |= parts.measured(case, eps, group, folder / group.name)[0]
        print(f"{group.name}: done", flush=True)
    unguided = replace(case, alone={**case.alone, "DDPM": rr.DefendedPipeline(case.model, [stages["DDPM"]])})
    group = parts.Group("AGDM transferred", {"AGDM": stages["AGDM"]}, views=[f"from {name}" for name in unguided.alone])
    transferred = parts.measured(unguided, eps, group, folder / group.name)[0]["AGDM"]
    cells |= {f"AGDM, attack {view}": {"adaptive": transferred[view]} for view in group.views}
    known = cells["AGDM"][parts.KNOWN]
    cells[WORST] = {"adaptive": worst_case(case.task.metrics(), [known, *(transferred[view] for view in group.views)])}
    metric = case.task.metrics()[0]
    scored = {name: row.get(parts.KNOWN, row.get("adaptive"))[metric.name] for name, row in cells.items()}
    said = [
        compare(metric, scored[WORST], table, f"PGD-{case.attack_steps}, {WORST}, against {name}")
        for name, table in scored.items()
        if not name.startswith("AGDM")
    ]
    return {"rows": parts.rows(case, cells), "verdicts": said}


def main() -> None:
    parser = purifier_sets.arguments("longer-attack", __doc__)
    parser.add_argument("--steps", type=int, default=40, help="of PGD; the length of each stays as in the table")
    options = parser.parse_args()
    case = moved(replace(purifier_sets.guided(options), attack_steps=options.steps), options.device)
    content = longer(case, options.progress / f"{options.set} {options.device} {options.steps}")
    about = {
        "eps": case.eps[0],
        "attack_steps": options.steps,
        "agdm": case.agdm,
        **case.about,
        "machine": harness.machine(options.device),
    }
    harness.write(f"longer_attack_{options.set}", {"about": about, **content})
    print("\n".join(content["verdicts"]))


if __name__ == "__main__":
    main()
