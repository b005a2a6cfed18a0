"""recheck: every certificate of a report once more, from its stored counts, without a model."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from . import bounds
from .evidence import Evidence
from .measure import certificate_of, restoration_row
from .noise import NORMS
from .report import COUNTS, CertifiedReport
from .restorer import BINS, check_counted, gaussian, sizes
from .segmenter import least_count

_ODD = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError)  # of changed files
_ALSO = {"classification": {"level", "looks"}, "segmentation": {"tau", "correction"}, "restoration": {"eps"}}


def recheck(report: CertifiedReport | str | Path) -> list[str]:
    """What does not follow from the counts, in words; empty where all of it does.

    For any report, or the file or folder of one. Bounds, predictions, radii, shares and certified PSNR are derived anew; of a
    restorer the PSNR of the noisy input is not. Whether the counts were really drawn, and from that model, no file can tell:
    that needs another run.
    """
    known = report if isinstance(report, CertifiedReport) else CertifiedReport.load(report)
    if missing := sorted(({"noise", "model", "draws", "alpha"} | _ALSO[known.what]) - set(known.about)):
        raise ValueError(
            f"report: expected what it is about, missing {', '.join(missing)}: the certificates say nothing without"
        )
    if not known.rows:
        return ["rows: expected certificates, got none"]
    checks = {"classification": _classification, "segmentation": _segmentation}
    if known.what == "restoration" and len(known.evidence) != len(known.rows):
        return [f"counts: expected a file in {COUNTS} for each of {len(known.rows)} rows, got {len(known.evidence)}"]
    found = [] if isinstance(report, CertifiedReport) or known.stated else ["summary: expected figures, got none"]
    try:
        found += _settings(known)
    except _ODD as error:
        found.append(f"settings: cannot be read: {error!r}")
    found += _summary(known)
    for number, row in enumerate(known.rows):
        try:
            if known.what == "restoration":
                wrong = _restoration(row, known.about, known.evidence[number])
            else:
                wrong = checks[known.what](row, known.about)
        except _ODD as error:
            wrong = [f"cannot be read: {error!r}"]
        found += [f"row {number}: {text}" for text in wrong]
    return found


def _summary(report: CertifiedReport) -> list[str]:
    """That the figures of the file are those of its rows."""
    if report.stated is None:
        return []
    try:
        expected = report.summary()
    except _ODD as error:
        return [f"summary: cannot be made from the rows: {error!r}"]
    stated: object = report.stated
    if not isinstance(stated, dict) or stated.keys() != expected.keys():
        got = ", ".join(stated) if isinstance(stated, dict) else stated
        return [f"summary: expected the figures {', '.join(expected)}, got {got}"]
    return [text for name, found in expected.items() for text in _figure(name, stated[name], found)]


def _figure(name: str, stated: Any, expected: dict[str, Any]) -> list[str]:
    """What is wrong with one figure and its interval; JSON has no word for NaN."""
    if not isinstance(stated, dict) or stated.keys() != expected.keys():
        return [f"summary: expected {name} with {' and '.join(expected)}, got {stated}"]
    value, given = expected["value"], stated["value"]
    found = [] if _known(given, value) else [f"summary: expected {name} = {value:.9g}, got {given}"]
    wanted, ends = list(expected.get("interval", [])), stated.get("interval", [])
    good = isinstance(ends, list | tuple) and len(ends) == len(wanted) and all(map(_known, ends, wanted))
    return found if good else [*found, f"summary: expected the interval {wanted} of {name}, got {ends}"]


def _known(one: Any, other: float) -> bool:
    return one is None or one != one if other != other else _same(one, other)


def _settings(report: CertifiedReport) -> list[str]:
    """That the error probability of a single test follows from alpha."""
    about = report.about
    drawn = about["draws"]
    if not (isinstance(drawn, list | tuple) and len(drawn) == 2 and all(type(k) is int and k >= 1 for k in drawn)):
        return [f"draws: expected two whole numbers >= 1, got {about['draws']}"]
    if report.what != "classification":
        return [] if 0 < about["alpha"] < 1 else [f"alpha: expected in (0, 1), got {about['alpha']}"]
    whole = report.noise().count is not None
    level = 0.0 if whole else about["alpha"] / len(about["looks"] or [0])
    good = math.isclose(about["level"], level, rel_tol=1e-12) and (whole or 0 < about["alpha"] < 1)
    by = f"alpha {about['alpha']} and looks {about['looks']}"
    return [] if good else [f"level: expected {level:g} by {by}, got {about['level']}"]


def _classification(row: dict[str, Any], about: dict[str, Any]) -> list[str]:
    certificate = certificate_of(row, about)
    ends = about["looks"] or [about["draws"][1]]
    found = [] if row["n"] in ends else [f"n: expected one of {ends}, got {row['n']}"]
    if row["n0"] != about["draws"][0]:
        found.append(f"n0: expected {about['draws'][0]}, got {row['n0']}")
    if row["level"] != about["level"]:
        found.append(f"level: expected {about['level']}, got {row['level']}")
    if not _same(row["p_low"], certificate.p_low):
        found.append(f"p_low: expected {certificate.p_low:.9g}, got {row['p_low']}")
    if row["prediction"] != certificate.prediction:
        found.append(f"prediction: expected {certificate.prediction}, got {row['prediction']}")
    return found + _radii(row, certificate.radius)


def _segmentation(row: dict[str, Any], about: dict[str, Any]) -> list[str]:
    from .noise import Noise

    corrections: dict[str, bounds.Correction] = {"holm": bounds.holm, "bonferroni": bounds.bonferroni}
    if about["correction"] not in corrections:
        return [f"correction: expected one of {', '.join(corrections)}, got {about['correction']!r}: check it by hand"]
    n, table = about["draws"][1], {int(k): v for k, v in row["counts"].items()}
    histogram = [table.get(k, [0, 0, 0])[0] for k in range(max(table) + 1)]
    found = [] if max(table) <= n else [f"counts: expected at most {n}, got {max(table)}"]
    least = least_count(histogram, n, about["tau"], about["alpha"], corrections[about["correction"]])
    totals = np.array([v for k, v in table.items() if k >= least], dtype=np.int64).reshape(-1, 3).sum(0)
    expected = {"threshold": least, "pixels": sum(histogram), "kept": int(totals[1]), "right": int(totals[2])}
    expected["labelled"] = sum(v[1] for v in table.values())
    if "intersection" in row:
        expected["sum of intersections"] = int(totals[2])
    stated = {**row, "sum of intersections": sum(row.get("intersection", []))}
    found += [f"{name}: expected {value}, got {stated[name]}" for name, value in expected.items() if stated[name] != value]
    if sum(histogram) != row["shape"][1] * row["shape"][2]:
        found.append(f"pixels: expected {row['shape'][1]} x {row['shape'][2]}, got {sum(histogram)}")
    noise, dims = Noise.of(about["noise"]), math.prod(row["shape"])
    return found + _radii(row, {norm: float(noise.radius(about["tau"], norm, dims)) for norm in NORMS})


def _restoration(row: dict[str, Any], about: dict[str, Any], evidence: Evidence) -> list[str]:
    from .noise import Noise

    tensors, n = evidence.tensors(), about["draws"][1]
    counts, target = tensors["counts"], tensors["target"]
    if evidence.digest() != row["counts"]:
        return ["counts: expected those that the row was made from, got others"]
    if list(counts.shape) != [BINS + 2, *row["shape"]]:
        return [f"counts: expected {BINS + 2} bins for each value of {row['shape']}, got {list(counts.shape)}"]
    check_counted(tensors, n)
    expected = restoration_row(tensors, target, (sizes(about["eps"]), n, about["alpha"], gaussian(Noise.of(about["noise"]))))
    stated = {"PSNR": row["psnr"], **{f"L2 <= {eps}": value for eps, value in row["certified"].items()}}
    wanted = {"PSNR": expected["psnr"], **{f"L2 <= {eps}": value for eps, value in expected["certified"].items()}}
    if stated.keys() != wanted.keys():
        return [f"certified: expected {list(expected['certified'])}, got {list(row['certified'])}"]
    return [
        f"{name}: expected {value:.9g}, got {stated[name]}" for name, value in wanted.items() if not _same(stated[name], value)
    ]


def _radii(row: dict[str, Any], expected: Any) -> list[str]:
    return [
        f"radius {norm}: expected {expected[norm]:.9g}, got {row['radius'][norm]}"
        for norm in NORMS
        if not _same(row["radius"][norm], expected[norm])
    ]


def _same(one: Any, other: float) -> bool:
    if math.isinf(other):  # JSON has no word for it
        return one is None or one == other
    return isinstance(one, int | float) and math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
