"""Write the tables of README and docs from the JSON in results/, between `<!-- table NAME -->` and `<!-- end -->`.

python benchmarks/tables.py          # --check: change nothing, fail where a page differs from the results
"""

import argparse
import math
import re
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for those that load this file by its path

import cost_tables
import ducd_tables
import pearl_tables
import purifier_tables
import recommended_tables
import udc_tables
from table_parts import ROOT
from table_parts import cell as _cell
from table_parts import lines as _lines
from table_parts import load as _load
from table_parts import percent as _percent

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "src").rglob("*.md"))]


def report(name: str) -> str:
    """Defences down, what the attacker sees across, first metric."""
    rows = _load(name)["rows"]
    metric = next(iter(rows[0]["values"]))
    views = ["none", "oblivious", "bpda", "adaptive", "worst"]
    defences = list(dict.fromkeys(row["defence"] for row in rows))
    found = {(r["defence"], "none" if r["attack"] == "none" else r["view"]): _cell(r, metric) for r in rows}
    body = []
    for defence in defences:
        cells = [found.get((defence, view), "") for view in views]
        if defence == "none":
            cells = [cells[0], "", "", found["none", "-"], cells[4]]
        body.append(["no defence" if defence == "none" else defence, *cells])
    return _lines([f"{metric}", "no attack", "oblivious", "BPDA", "adaptive", "worst case"], body)


def denoising() -> str:
    """Methods down, levels across."""
    rows = _load("denoising")["psnr"]
    levels = list(rows["noisy"])
    body = [[name, *(f"{row[level]['psnr']:.2f}" for level in levels)] for name, row in rows.items()]
    return _lines(["PSNR in dB", *(f"sigma {level}{'' if '.' in level else '/255'}" for level in levels)], body)


def priors() -> str:
    """The two priors as purifiers: views across, then the PSNR of what they hand on."""
    found = _load("priors")
    rows = {(row["defence"], "none" if row["attack"] == "none" else row["view"]): row for row in found["rows"]}
    names, views = {"Diffusion": "photographs", "open": "open"}, ("none", "oblivious", "bpda", "adaptive")
    body = []
    for defence, name in names.items():
        kept = [f"{v:.2f} [{low:.2f}, {high:.2f}]" for v, low, high in found["about"]["PSNR"][name].values()]
        body.append([name, *(_cell(rows[defence, view], "mean IoU") for view in views), *kept])
    heads = ["no attack", "oblivious", "BPDA", "adaptive", "PSNR to the clean frame, no attack", "the same, oblivious"]
    return _lines(["mean IoU", *heads], body)


def deraining() -> str:
    """Sets down, before and after across."""
    names = ("rainy PSNR", "restored PSNR", "rainy SSIM", "restored SSIM")
    body = [
        [f"{name} (n = {row['images']})", *(f"{row[n][0]:.2f} [{row[n][1]:.2f}, {row[n][2]:.2f}]" for n in names)]
        for name, row in _load("deraining")["results"].items()
    ]
    return _lines(["images", *names], body)


def prenet() -> str:
    """Weights down, metrics across."""
    found = _load("prenet")
    names = ("PSNR Y", "SSIM Y", "PSNR RGB", "SSIM RGB")
    body = []
    for name, row in found["rows"].items():
        who = f"{row['class']}, trained on {row['trained on']}" if "class" in row else name
        cells = [f"{v:.{d}f} [{a:.{d}f}, {b:.{d}f}]" for (v, a, b), d in ((row[n], 2 if "PSNR" in n else 3) for n in names)]
        stated = row.get("stated by its authors")
        body.append([who, f"{stated:.2f}" if stated else "", *cells])
    return _lines([f"{found['about']['pairs']} pairs", "stated, PSNR Y", *names], body)


def segmenter() -> str:
    """One line: the mean and every class."""
    found = _load("segmenter")
    low, high = found["interval"]
    mean = f"{found['mean_iou']:.3f} [{low:.3f}, {high:.3f}]"
    return _lines(["mean IoU", *found["classes"]], [[mean, *(f"{v:.2f}" for v in found["classes"].values())]])


def levels() -> str:
    """Levels and steps down; without attack and under the oblivious one across."""
    body = [[name, *(f"{value:.3f}" for value in row)] for name, row in _load("levels")["mean_iou"].items()]
    return _lines(["mean IoU, 4 frames", "no attack", "oblivious PGD-20 at 4/255"], body)


def _ratio(row: dict[str, float] | None) -> str:
    return f"{row['median']:.2f} [{row['lowest']:.2f}, {row['highest']:.2f}]" if row else ""


def attack_speed() -> str:
    """Attacks down, models across: times the floor."""
    found = _load("attacks")
    cases = ("classifier", "segmenter")
    ratios = {case: found[case]["ratio to the floor"] for case in cases}
    refused = {case: found[case]["refuses"] for case in cases}
    names = sorted(
        {*ratios["classifier"], *ratios["segmenter"]}, key=lambda n: ratios["classifier"].get(n, {"median": 9})["median"]
    )
    body = [
        [name, *(_ratio(ratios[case].get(name)) or ("cannot" if name in refused[case] else "") for case in cases)]
        for name in names
    ]
    return _lines([f"{found['about']['steps']} steps", "ResNet-18", "U-Net segmenter"], body)


def attack_peers() -> str:
    """What those that cannot attack a segmenter say."""
    body = [[name, reason.replace("|", "/").replace("<", "(").replace(">", ")")] for name, reason in
            sorted(_load("attacks")["segmenter"]["refuses"].items())]  # fmt: skip
    return _lines(["on a segmenter", "says"], body)


def attack_dropping() -> str:
    """Networks down: what dropping broken images saves."""
    body = []
    for name, row in _load("attacks")["dropping"].items():
        shares = [f"{100 * row['accuracy'][end]:.0f} %" for end in ("clean", "floor", "dropping")]
        body.append([f"{name} (n = {row['images']})", *shares, _ratio(row["ratio to the floor"])])
    return _lines(["network", "clean", "PGD-20, bare loop", "PGD-20, judged", "time"], body)


def attack_memory() -> str:
    """Peak memory."""
    found = _load("attacks")["memory"]
    body = [
        [name, f"{value:.0f}", f"{found['ratio to the floor'].get(name, 1):.2f}"] for name, value in found["peak MiB"].items()
    ]
    return _lines(["U-Net segmenter, 16 images of 128 x 128", "peak MiB", "of the floor"], body)


def parity() -> str:
    """Models and attacks down, ours and torchattacks' across."""
    body = []
    for name, found in _load("parity")["results"].items():
        for attack, row in found["rows"].items():
            if attack == "clean":
                body.append([f"{name} (n = {found['images']}), eps {found['eps']:.3g}: no attack", f"{row['percent']:.1f}", ""])
                continue
            cells = [row[who] for who in ("robustrestore", "torchattacks")]
            body.append([attack, *(f"{c['percent']:.1f} [{c['interval'][0]:.1f}, {c['interval'][1]:.1f}]" for c in cells)])
    return _lines(["robust accuracy in percent", "robustrestore", "torchattacks"], body)


def by_size(name: str, metric: str) -> str:
    """Attacks down, sizes across, first metric with its interval."""
    found = _load(name)["results"]
    digits = 2 if metric == "PSNR" else 3
    rows = dict.fromkeys(row for size in found.values() for row in size["rows"])
    body = []
    for row in rows:
        values = [size["rows"][row][metric] for size in found.values()]
        body.append([row, *(f"{v:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" for v, low, high in values)])
    return _lines([metric, *(f"{size}/255" for size in found)], body)


def _share(found: dict[str, Any], digits: int = 3) -> str:
    """A figure of a report of certificates, with its interval."""
    low, high = found.get("interval", (None, None))
    known = "" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{found['value']:.{digits}f}{known}"


def certify_classifier() -> str:
    """Models down, certified accuracy at radii and ACR across."""
    found = _load("certify_classifier")
    names = [name for name in next(iter(found["rows"].values()))["figures"] if name.startswith("l2 >=")]
    body = []
    for name, row in found["rows"].items():
        about, figures = row["about"], row["figures"]
        label = f"{name} (clean {row['clean accuracy of the base model']:.2f})"
        body.append([label, *(_share(figures[n], 2) for n in (*names, "abstained")), _share(figures["ACR l2"])])
    n, alpha = about["draws"][1], about["alpha"]
    ceiling = found["sigma"] * statistics.NormalDist().inv_cdf(alpha ** (1 / n))  # where all n draws agree
    some = f" ({found['lossless images']} of them lossless)" if "lossless images" in found else ""
    head = f"{found['images']} images{some}, n = {n}, alpha {alpha:g}, ceiling {math.floor(ceiling * 1000) / 1000:.3f}"
    return _lines([head, *(n.removeprefix("l2 ") for n in names), "abstained", "ACR"], body)


def certify_segmenter() -> str:
    """Models down, shares of pixels across."""
    found, names = _load("certify_segmenter"), ("certified pixel accuracy", "of certified pixels right", "abstained")
    body = []
    for name, row in found["rows"].items():
        figures, about = row["figures"], row["about"]
        cells = [f"{row['base model without noise']['mean IoU']:.3f}", f"{figures['radius l2']['value']:.3f}"]
        body.append([name, *cells, *(_share(figures[n]) for n in (*names, "certified mean IoU"))])
    head = f"{len(found['frames'])} frames, n = {about['draws'][1]}, alpha {about['alpha']:g}"
    return _lines([head, "mean IoU without noise", "radius L2", *names, "certified mean IoU"], body)


def certify_restorer() -> str:
    """Models and sizes down, certified PSNR and that under attack across."""
    found, body = _load("certify_restorer"), []
    for name, row in found["rows"].items():
        noisy, bare = row["figures"]["PSNR of the noisy input"]["value"], sum(row["bare network"]) / found["images"]
        for size in row["certified"]:
            means = [sum(row[what][size]) / found["images"] for what in ("certified", "under PGD")]
            body.append([f"{name}, L2 <= {size}", *(f"{mean:.2f}" for mean in means), f"{noisy:.2f}", f"{bare:.2f}"])
    head = f"PSNR, {found['images']} images, n = {row['about']['draws'][1]}, alpha {row['about']['alpha']:g}"
    return _lines([head, "certified", "under PGD", "noisy input", "network without noise"], body)


def certify_cost() -> str:
    """Models down: time over the floor; memory."""
    found = _load("certify_cost")
    body = [[f"{row['model']}, n = {row['n']}, {row['by']}", _ratio(row), ""] for row in found["rows"]]
    peaks = found["MiB above the model by n"].items()
    body += [[f"segmenter, 240 x 180, n = {n}, robustrestore", "", f"{mib:.0f}"] for n, mib in peaks]
    return _lines(["certifying", "CPU time over the floor", "MiB above the model"], body)


def verdicts(name: str) -> str:
    """What the report says in words."""
    return "\n".join(f"- {verdict}" for verdict in _load(name)["verdicts"])


def aerial(network: str) -> str:
    """Attacks down, defences across: accuracy with its interval, and the timesteps that were chosen."""
    body = []
    for attack, row in _load("aerial")["networks"][network]["attacks"].items():
        chosen = [", ".join(str(t) for t in row["timesteps"]["ANLS"]), str(row["timesteps"]["label oracle"])]
        names = {"ANLS": f" (t {chosen[0]})", "label oracle": f" (t {chosen[1]})"}
        body.append([attack, *(f"{_percent(cell)}{names.get(name, '')}" for name, cell in row["accuracy"].items())])
    names = ["no defence", "ANLS", "label oracle", "blur", "median", "JPEG"]
    return _lines(["accuracy in percent", *names], body)


def aerial_adaptive() -> str:
    """Networks and attacks down, what the attacker knows across."""
    body = []
    for network, found in _load("aerial")["networks"].items():
        for attack, row in found["adaptive"]["accuracy"].items():
            label = f"{network}, {attack}, t {found['adaptive']['timestep']}"
            body.append([label, *(_percent(row[view]) for view in ("oblivious", "adaptive"))])
    return _lines(["accuracy in percent behind the purifier", "oblivious", "adaptive"], body)


def aerial_chain() -> str:
    """Networks down, one step and the published chain across."""
    body = []
    for network, found in _load("aerial")["networks"].items():
        t, row = found["chain"]["timestep"], found["chain"]["accuracy"]
        body.append([f"{network}, {found['chain']['attack']}, t {t}", _percent(row["1 steps"]), _percent(row[f"{t} steps"])])
    return _lines(["accuracy in percent", "one step", "t steps of DDPM"], body)


def anls() -> str:
    """Rules down, cells across: points behind the label oracle, whose value stands in the first row."""
    found = [(case, size, row) for case, sizes in _load("anls")["cells"].items() for size, row in sizes.items()]
    head = [f"{case}, {size}/255" for case, size, _ in found]
    body = []
    for rule in found[0][2]["rules"]:
        cells = []
        for _, _, row in found:
            one = row["rules"][rule]
            chosen = f" (t {', '.join(str(t) for t in one['timesteps'])})" if "timesteps" in one else ""
            cells.append(f"{one['value']:.3f}{chosen}" if rule == "label oracle" else f"{max(0, one['gap']):.1f}{chosen}")
        body.append([rule, *cells])
    return _lines(["points behind the label oracle", *head], body)


def anls_far() -> str:
    """Cells down: how much of the distance remains at the chosen level, and how far that level is behind."""
    body = []
    for case, sizes in _load("anls")["cells"].items():
        for size, row in sizes.items():
            cells = []
            for rule, shares in row["distance that remains"].items():
                cells += [", ".join(f"{100 * v:.0f} %" for v in shares), f"{max(0, row['rules'][rule]['gap']):.1f}"]
            body.append([f"{case}, {size}/255", *cells])
    return _lines(["", "train: remains", "points behind", "held-out: remains", "points behind"], body)


def anls_clean() -> str:
    """Rules down, cells across: what the chosen level leaves of the value without attack."""
    found = [(case, size, row) for case, sizes in _load("anls")["cells"].items() for size, row in sizes.items()]
    names = ("no defence", "ANLS, train images", "ANLS, held-out images", "answers before the attack", "label oracle")
    body = [[name, *(f"{row['rules'][name]['clean']:.3f}" for _, _, row in found)] for name in names]
    return _lines(["without attack, at the level chosen for", *(f"{case}, {size}/255" for case, size, _ in found)], body)


def anls_cost() -> str:
    """Cells down: how the search compares with the sweep, on the curve of the published rule."""
    body = []
    for case, sizes in _load("anls")["cells"].items():
        for size, row in sizes.items():
            full, fast = row["rules"]["ANLS, train images"], row["coarse to fine"]["ANLS, train images"]
            cells = [", ".join(str(t) for t in one["timesteps"]) for one in (full, fast)]
            spent = [", ".join(str(v) for v in fast[key]) for key in ("levels", "calls")]
            body.append([f"{case}, {size}/255", cells[0], cells[1], *spent, f"{full['gap']:.1f}", f"{fast['gap']:.1f}"])
    names = ["sweep chooses t", "search chooses t", "levels it measures, of 15", "calls an image of a full chain, of 1200"]
    return _lines(["", *names, "sweep, points behind", "search, points behind"], body)


def processes() -> str:
    """Trainings down: the metric in one process and in two, the time of two over that of one, and the floor of that."""
    body = [
        [
            f"{row['recipe']}, {row['steps']} steps, seed {row['seed']}",
            *(f"{row[count]['PSNR']:.3f}" for count in ("one", "two")),
            *(f"{row[name]:.2f}" for name in ("ratio", "floor")),
        ]
        for row in _load("processes")["rows"]
    ]
    return _lines(["PSNR in dB", "one process", "two", "wall time of two over one", "floor of that"], body)


TABLES = {
    **purifier_tables.TABLES,
    **cost_tables.TABLES,
    **ducd_tables.TABLES,
    **pearl_tables.TABLES,
    **recommended_tables.TABLES,
    **udc_tables.TABLES,
    "certify_classifier": certify_classifier,
    "certify_segmenter": certify_segmenter,
    "certify_restorer": certify_restorer,
    "certify_cost": certify_cost,
    "aerial slim_resnet18": lambda: aerial("slim_resnet18"),
    "aerial regnetx_002": lambda: aerial("regnetx_002"),
    "aerial adaptive": aerial_adaptive,
    "aerial chain": aerial_chain,
    "anls": anls,
    "anls cost": anls_cost,
    "anls far": anls_far,
    "anls clean": anls_clean,
    "attack_speed": attack_speed,
    "attack_peers": attack_peers,
    "attack_dropping": attack_dropping,
    "attack_memory": attack_memory,
    "parity": parity,
    "segmenter_attacks": lambda: by_size("segmenter_attacks", "mean IoU"),
    "restorer_attacks": lambda: by_size("restorer_attacks", "PSNR"),
    "street": lambda: report("street"),
    "street verdicts": lambda: verdicts("street"),
    "one_step": lambda: report("one_step"),
    "one_step verdicts": lambda: verdicts("one_step"),
    "photographs": lambda: report("photographs"),
    "photographs verdicts": lambda: verdicts("photographs"),
    "foreign_model": lambda: report("foreign_model"),
    "denoising": denoising,
    "deraining": deraining,
    "levels": levels,
    "priors": priors,
    "priors verdicts": lambda: verdicts("priors"),
    "prenet": prenet,
    "processes": processes,
    "segmenter": segmenter,
}


def filled(text: str) -> str:
    """The page with every table made anew."""
    pattern = re.compile(r"<!-- table (?P<name>[^>]+?) -->\n.*?<!-- end -->", re.DOTALL)
    return pattern.sub(lambda m: f"<!-- table {m['name']} -->\n{TABLES[m['name']]()}\n<!-- end -->", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            stale.append(str(page.relative_to(ROOT)))
            if not options.check:
                page.write_text(new, encoding="utf-8")
    print(f"{'differ' if options.check else 'written'}: {', '.join(stale) or 'none'}")
    sys.exit(1 if options.check and stale else 0)


if __name__ == "__main__":
    main()
