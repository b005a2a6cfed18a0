"""recheck and the files of reports: what was changed in them is named, whatever it was."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from toys import photos

from robustrestore import certify

NOISE = certify.Gaussian(0.25)


def restored() -> certify.CertifiedReport:
    images = photos(3, 12, 12)
    smoothed = certify.SmoothedRestorer(nn.Identity(), certify.Gaussian(0.05))
    return certify.measure_restorer(smoothed, [(images, images)], [0.0, 0.02], 200)


def test_recheck_wants_bins_for_each_value_and_whole_counts(tmp_path: Path) -> None:
    """One start for all values would divide alpha by one, not by their number."""
    from safetensors.torch import load, save_file

    restored().save(tmp_path)
    file = tmp_path / "counts" / "000001.safetensors"
    good = load(file.read_bytes())
    one = torch.full((1, 1, 1), 0.1)
    for change, text in (
        ({"start": one, "width": one.clone()}, "start [1, 1, 1], width [1, 1, 1]"),
        ({"start": good["start"][:1]}, "a start and a width of its own"),
        ({"counts": good["counts"][:, :1]}, "expected 66 bins for each value of [3, 12, 12]"),
        ({"width": torch.full_like(good["width"], math.inf)}, "finite"),
        ({"start": torch.full_like(good["start"], math.nan)}, "finite"),
        ({"counts": good["counts"].float()}, "as whole numbers"),
        ({"counts": good["counts"] - 1}, "as whole numbers >= 0"),
    ):
        save_file({name: tensor.contiguous() for name, tensor in (good | change).items()}, file)
        known = certify.CertifiedReport.load(tmp_path)
        known.rows[1]["counts"] = known.evidence[1].digest()
        (wrong,) = certify.recheck(known)
        assert wrong.startswith("row 1: ")
        assert text in wrong
    file.write_bytes(b"abc")
    assert "damaged file" in certify.recheck(tmp_path)[0]


def test_a_journal_with_one_bin_for_all_values_is_not_believed(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load, save_file

    image, smoothed = photos(1, 8, 8), certify.SmoothedRestorer(nn.Identity(), NOISE)
    for ask, names in ((smoothed.median, ("start", "width")), (smoothed.mean, ("mean",))):
        folder = tmp_path / names[0]
        ask(image, [0.1], 60, folder=folder)
        file = folder / "batch-000000.safetensors"
        with safe_open(file, framework="pt") as kept:
            about = kept.metadata()
        save_file({**load(file.read_bytes()), **{name: torch.full((1, 1, 1), 0.5) for name in names}}, file, about)
        with pytest.raises(ValueError, match="for each value"):
            ask(image, [0.1], 60, folder=folder)


def test_recheck_wants_the_figures_of_the_summary_and_no_others(tmp_path: Path) -> None:
    report = restored()
    report.save(tmp_path)
    file, name = tmp_path / "certified.json", "PSNR, smoothed"

    def changed(summary: object) -> list[str]:
        file.write_text(json.dumps(json.loads(report.json()) | {"summary": summary}))
        return certify.recheck(tmp_path)

    good = json.loads(report.json())["summary"]
    assert changed(good) == []
    assert "L2 <= 9" in changed(good | {"certified PSNR, L2 <= 9": {"value": 99.0, "interval": [98, 100]}})[0]
    assert "expected the figures" in changed({name: good[name]})[0]
    (wrong,) = changed(good | {name: good[name] | {"interval": [90, 91]}})
    assert wrong.startswith("summary: expected the interval [")
    assert wrong.endswith(f"of {name}, got [90, 91]")
    for other in ({"value": good[name]["value"]}, 7, None):
        assert "with value and interval" in changed(good | {name: other})[0]
    for odd in ([1], 7, "text"):
        assert "expected the figures" in changed(odd)[0]
    images = photos(1, 4, 4)
    smoothed = certify.SmoothedRestorer(nn.Identity(), NOISE)
    certify.measure_restorer(smoothed, [(images, images)], [0.1], 20).save(tmp_path / "one")  # one image has no interval
    assert certify.recheck(tmp_path / "one") == []


def test_a_shorter_report_takes_the_counts_of_a_longer_one_away(tmp_path: Path) -> None:
    restored().save(tmp_path)
    (tmp_path / "counts" / "mine.txt").write_text("")
    images = photos(1, 4, 4)
    smoothed = certify.SmoothedRestorer(nn.Identity(), NOISE)
    certify.measure_restorer(smoothed, [(images, images)], [0.1], 20).save(tmp_path)
    assert sorted(one.name for one in (tmp_path / "counts").iterdir()) == ["000000.safetensors", "mine.txt"]
    assert certify.recheck(tmp_path) == []


ODD = {
    "alpha": (("about", "alpha"), "0.001"),
    "draws": (("about", "draws"), "ab"),
    "draws in part": (("about", "draws"), [50, 200.5]),
    "noise": (("about", "noise"), {"a": 1}),
    "eps": (("about", "eps"), [None]),
    "certified": (("rows", 0, "certified"), [1]),
    "no certified": (("rows", 0, "certified"), None),
    "row": (("rows", 0), None),
    "shape": (("rows", 0, "shape"), None),
}


@pytest.mark.parametrize(("path", "value"), ODD.values(), ids=ODD)
def test_recheck_names_what_is_odd_and_does_not_stop(path: tuple[str | int, ...], value: object, tmp_path: Path) -> None:
    report = restored()
    report.save(tmp_path)
    content = at = json.loads(report.json())
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (tmp_path / "certified.json").write_text(json.dumps(content))
    assert certify.recheck(tmp_path)
    for missing in ({"rows": None}, {"about": None}):
        (tmp_path / "certified.json").write_text(json.dumps(content | missing))
        with pytest.raises(ValueError, match="expected rows, a list"):
            certify.recheck(tmp_path)
