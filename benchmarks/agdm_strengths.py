"""Which strength of AGDM: a few images outside the set's small table, PGD that knows the noise, beside the unguided chain.

python benchmarks/agdm_strengths.py --set camvid --data CAMVID --auxiliary WEIGHTS [--strengths 0.001 0.01 0.1] [--device cuda]

Sets, data and weights as for purification.py; the first row is unguided DDPM. Writes results/agdm_strengths_SET.json. What the
tables use is `agdm` of the set's `Case`. Can be killed and started again: what is done is kept in --progress.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import purifier_rows as parts
import purifier_sets
from purification import moved

FACTORS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of the strength that the table uses


def swept(case: parts.Case, strengths: Sequence[float], folder: Path) -> dict[str, Any]:
    """Rows by strength, "0" for DDPM without guidance, on the images that `case` keeps for tuning; resumable in `folder`."""
    case = replace(case, batches=case.tuning)
    stages = {"0": parts.chains(case, 0)["DDPM"]}
    stages |= {f"{one:g}": parts.chains(replace(case, agdm=one), 0)["AGDM"] for one in strengths}
    group = parts.Group("strengths", stages, views=("adaptive",), column=parts.KNOWN)
    eps = case.eps[0]
    cells, report = parts.measured(case, eps, group, folder)
    taken = {name: {"no attack": cells[name]["fixed, no attack"], parts.KNOWN: cells[name][parts.KNOWN]} for name in stages}
    plain, settings = ("class_weight", "sigma", "steps", "attack_steps", "auxiliary weights"), case.settings()
    about = {"eps": eps, "taken": case.agdm, **{name: settings[name] for name in plain}}
    about |= {key: report.about[key] for key in ("images", "attacks", "defences", "seed")}
    return {"about": about, "warnings": parts.warnings(report), "rows": parts.rows(case, taken)}


def main() -> None:
    parser = purifier_sets.arguments("agdm-strengths", __doc__)
    parser.add_argument("--strengths", type=float, nargs="+", help="above 0; by default around the table's")
    options = parser.parse_args()
    case = purifier_sets.guided(options)
    if not case.tuning:
        raise SystemExit(
            f"{options.set}: expected images beside those of the table, got none: take a folder with more photographs, or name "
            "them in `tuning` of the set's Case"
        )
    strengths = options.strengths or [factor * case.agdm for factor in FACTORS]
    if wrong := [one for one in strengths if not 0 < one < math.inf]:
        raise SystemExit(f"--strengths: expected finite numbers above 0, got {wrong}: the row 0 is there anyway")
    folder = options.progress / " ".join([options.set, options.device, *(f"{one:g}" for one in strengths)])
    content = swept(moved(case, options.device), strengths, folder)
    content["about"]["machine"] = harness.machine(options.device)
    harness.write(f"agdm_strengths_{options.set}", content)
    for row in content["rows"]:
        print(row["defence"], row["column"], row["values"], flush=True)


if __name__ == "__main__":
    main()
