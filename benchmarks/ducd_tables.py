"""The tables of the DUCD recipe, from results/ducd.json."""

from typing import Any

from table_parts import lines, load


def _of(section: str) -> Any:
    return load("ducd")[section]


def _mean(values: list[float], digits: int = 3) -> str:
    """The mean over seeds, and the lowest and highest where there are several."""
    middle = sum(values) / len(values)
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def _share(row: dict[str, Any], digits: int = 3) -> str:
    return f"{row['value']:.{digits}f} [{row['interval'][0]:.{digits}f}, {row['interval'][1]:.{digits}f}]"


def _over(rows: list[dict[str, Any]], names: list[str]) -> list[str]:
    return [_mean([row[name]["value"] for row in rows]) for name in names]


def main_table() -> str:
    """Ways down; certified accuracy at radii, abstentions, average radius and the queries of one answer across."""
    found, about = _of("main"), load("ducd")["about"]
    seeds = list(found["seeds"].values())
    names = list(seeds[0]["rows"]["surrogate"]["figures"])
    body = []
    for way in (way for way in WAYS if way in seeds[0]["rows"]):
        rows = [seed["rows"][way] for seed in seeds if way in seed["rows"]]
        cost = str(seeds[0]["queries by smoothing the target"] // about["images"]) if way == "target by queries" else "0"
        clean = _mean([row["clean"] for row in rows])
        body.append([WAYS[way], clean, *_over([row["figures"] for row in rows], names), cost])
    head = f"{about['images']} digits, {found['noise']}, n = {about['draws']}, alpha {about['alpha']:g}"
    return lines([head, "clean, base", *names, "queries a certificate"], body)


def query_table() -> str:
    """What is paid for learning, certifying and answering."""
    seed, about = next(iter(_of("main")["seeds"].values())), load("ducd")["about"]
    head = ["queries of the target", "to learn", f"to certify {about['images']} images", "an answer in service"]
    body = [["smoothed surrogate", f"{seed['queries']['sent']:,}", "0", "0"]]
    spent = f"{seed['queries by smoothing the target']:,}"
    return lines(head, [*body, ["the target smoothed by queries", "0", spent, f"{about['draws']} (as many votes)"]])


WAYS = {
    "surrogate": "smoothed surrogate, L1 (DUCD)",
    "surrogate by KL": "smoothed surrogate, KL in place of L1",
    "white-box twin": "noise-trained twin of the target, with its labels (white box)",
    "denoiser": "denoiser in front of a surrogate (denoised smoothing)",
    "surrogate without noise": "surrogate trained without noise (none)",
    "target by queries": "the target smoothed by queries",
}


def agreement_table() -> str:
    """Surrogates down, kinds of agreement across, over seeds."""
    seeds = list(_of("main")["seeds"].values())
    kinds = list(seeds[0]["agreement"]["surrogate"])
    names = {
        "surrogate": "surrogate, L1, under the noise",
        "surrogate by KL": "surrogate, KL",
        "surrogate without noise": "surrogate, L1, without noise",
    }
    body = [
        [told, *(_mean([s["agreement"][n][k] for s in seeds if n in s["agreement"]]) for k in kinds)]
        for n, told in names.items()
        if n in seeds[0]["agreement"]
    ]
    return lines([f"{seeds[0]['held out']} held-out digits", *kinds], body)


def norm_table(norm: str) -> str:
    """The frozen noise of a norm and the best Gaussian down; radii across."""
    found, about = _of("norms")[norm], load("ducd")["about"]
    body = []
    for name, row in found["rows"].items():
        told = "frozen" if name == found["chosen"] else "best Gaussian"
        told = "frozen, and the best Gaussian" if name == found["chosen"] == found["Gaussian"] else told
        figures = row["figures"]
        single = [_share(value) for value in figures[0].values()]
        body.append(
            [f"{name} ({told}; {row['tightness']})", *(single if len(figures) == 1 else _over(figures, list(figures[0])))]
        )
    return lines(
        [f"{norm}, {about['images']} digits, n = {about['draws']}", *found["rows"][found["chosen"]]["figures"][0]], body
    )


def selection_table() -> str:
    """Candidates down, the average certified radius on the selection images in each norm across."""
    found = _of("select")
    body = []
    for k, row in enumerate(found["l2"]["candidates"]):
        cells = [f"{found[n]['candidates'][k]['acr']['value']:.4f}" for n in ("l1", "l2", "linf")]
        marks = [f"**{c}**" if found[n]["place"] == k else c for c, n in zip(cells, ("l1", "l2", "linf"), strict=True)]
        body.append([row["noise"], *marks])
    return lines([f"average certified radius, {found['l2']['images']} images held out", "L1", "L2", "Linf"], body)


def study_table(section: str) -> str:
    """Rows of the study down; agreement across."""
    found = _of("study")
    kinds = ["clean", "noisy, with the target's clean answer"]
    rows = found[section].items()
    body = [
        [name if section != "budgets" else f"{int(name):,}", *(_mean([r[k] for r in row], 3) for k in kinds)]
        for name, row in rows
    ]
    head = {"budgets": "queries", "losses": f"{found['small']:,} queries each", "sources": f"{found['small']:,} queries each"}
    return lines([head[section], *kinds], body)


def attack_table() -> str:
    """Sizes down; the deployed smoothed surrogate, then the target across."""
    found, body = _of("attacks"), []
    for eps, row in found["sizes"].items():
        if not isinstance(row, dict):
            continue
        said, target = row["deployed"], row["target"]
        promised = said["PGD-20, EOT"]["certified there"]
        cells = [f"{row['certified accuracy']:.2f}", *(f"{said[way]['accuracy']:.2f}" for way in ("PGD-20, EOT", "Square"))]
        broken = f"{max(one['broken'] for one in said.values())} of {promised}"
        body.append([eps, *cells, broken, *(f"{value:.2f}" for value in target.values())])
    names = ["certified accuracy", "under PGD-20, EOT", "under Square", "certificates broken"]
    return lines(
        [
            f"L2, {found['images']} digits",
            *names,
            *(f"target: {name}" for name in next(iter(found["sizes"].values()))["target"]),
        ],
        body,
    )


def member_table() -> str:
    """Models down; accuracy inside and outside, and each attack's balanced accuracy or AUC across."""
    found = _of("members")
    attacks = list(dict.fromkeys(row["attack"] for row in found["rows"]))
    body = []
    for name in found["about"]["targets"]:
        rows = {row["attack"]: row for row in found["rows"] if row["target"] == name}
        worth = found["accuracy inside, outside"][name]
        cells = [_estimate(rows[a]["accuracy"] if a == "Gap()" else rows[a]["auc"]) if a in rows else "" for a in attacks]
        worst = max(rows.values(), key=lambda row: row["auc"]["value"])
        body.append([name, f"{worth[0]:.3f}, {worth[1]:.3f}", *cells, _estimate(worst["tpr"]["0.01"], 2)])
    told = [f"{a.removesuffix('()')}{': balanced accuracy' if a == 'Gap()' else ': AUC'}" for a in attacks]
    return lines(["", "accuracy inside, outside", *told, "TPR at 1 % FPR, best attack"], body)


def _estimate(row: dict[str, float], digits: int = 3) -> str:
    return f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def map_table(section: str) -> str:
    """Surrogate and target down, figures across."""
    found = _of("maps")[section]
    rows = found["rows"]
    first = next(iter(rows.values()))
    names = [n for n, v in first["figures"].items() if "interval" in v and v["interval"][0] == v["interval"][0]]
    body = []
    for name, row in rows.items():
        clean = [f"{row['clean']:.3f}"] if "clean" in row else []
        body.append([name, *clean, *(_share(row["figures"][n]) for n in names), str(row["queries an image"])])
    clean = [f"{first['metric']} without noise"] if "clean" in first else []
    size = found.get("frames", found.get("images"))
    return lines([f"{size} images, {found['queries']} queries", *clean, *names, "queries a certificate"], body)


TABLES = {
    "ducd main": main_table,
    "ducd queries": query_table,
    "ducd agreement": agreement_table,
    "ducd selection": selection_table,
    **{f"ducd {norm}": lambda norm=norm: norm_table(norm) for norm in ("l1", "l2", "linf")},
    **{f"ducd {name}": lambda name=name: study_table(name) for name in ("budgets", "losses", "sources")},
    "ducd attacks": attack_table,
    "ducd members": member_table,
    "ducd segmentation": lambda: map_table("segmentation"),
    "ducd restoration": lambda: map_table("restoration"),
}
