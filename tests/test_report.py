"""Reports: the same text for the same results, valid JSON, safe HTML, pictures of the right size."""

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys_ground import inside

from robustrestore.report import Report, Row

NAN = float("nan")
EVIL = "<script>alert('1')</script> & \"x\" | y"


def row(defence: str = "Blur", attack: str = "PGD()", view: str = "adaptive", value: float = 0.5) -> Row:
    return Row(defence, attack, view, 12, {"accuracy": value, "PSNR": 31.25}, {"accuracy": (0.25, 0.75), "PSNR": (NAN, NAN)})


def report() -> Report:
    rows = [row("none", "none", "-", 0.9), row(), row(view="worst", value=NAN)]
    return Report(rows, ["Blur: better."], {"seed": 3, "eps": 1 / 3, "deep": {"inf": [float("inf"), 1]}})


def strict(text: str) -> object:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_holds_all_results_and_no_nan() -> None:
    found = strict(report().json())
    assert found == {
        "about": {"seed": 3, "eps": 0.333333, "deep": {"inf": [None, 1]}},
        "verdicts": ["Blur: better."],
        "rows": [
            {
                "defence": defence,
                "attack": attack,
                "view": view,
                "count": 12,
                "values": {"accuracy": value, "PSNR": 31.25},
                "intervals": {"accuracy": [0.25, 0.75], "PSNR": [None, None]},
            }
            for defence, attack, view, value in (
                ("none", "none", "-", 0.9),
                ("Blur", "PGD()", "adaptive", 0.5),
                ("Blur", "PGD()", "worst", None),
            )
        ],
    }


def test_json_is_the_same_text_for_the_same_results() -> None:
    assert report().json() == report().json()
    noisy = Report([row(value=0.5 + 1e-9)])  # rounding of another machine
    assert noisy.json() == Report([row()]).json()
    assert Report([row(value=0.5001)]).json() != Report([row()]).json()


def test_json_of_numpy_numbers() -> None:
    assert strict(Report([row(value=np.float64(0.25))]).json())["rows"][0]["values"]["accuracy"] == 0.25


def test_cells() -> None:
    assert row().cell("accuracy") == "0.500 [0.250, 0.750]"
    assert row().cell("PSNR") == "31.25"
    assert row(value=NAN).cell("accuracy").startswith("nan")


def test_markdown() -> None:
    assert report().markdown().splitlines() == [
        "| defence | attack | attacker sees | n | accuracy | PSNR |",
        "| --- | --- | --- | --- | --- | --- |",
        "| none | none | - | 12 | 0.900 [0.250, 0.750] | 31.25 |",
        "| Blur | PGD() | adaptive | 12 | 0.500 [0.250, 0.750] | 31.25 |",
        "| Blur | PGD() | worst | 12 | nan [0.250, 0.750] | 31.25 |",
        "",
        "- Blur: better.",
    ]
    assert str(report()) == report().markdown()


def test_markdown_cells_stay_cells() -> None:
    line = Report([row(defence="a | b", attack="two\nlines")]).markdown().splitlines()[2]
    assert line.startswith(r"| a \| b | two lines | adaptive |")


def test_an_empty_report() -> None:
    assert strict(Report([]).json()) == {"about": {}, "verdicts": [], "rows": []}
    assert Report([]).markdown().splitlines()[0] == "| defence | attack | attacker sees | n |"
    assert "<table>" in Report([]).html()


def test_a_row_is_found() -> None:
    rows = report().rows
    assert report().row("Blur", "adaptive") == rows[1]
    assert report().row("none", "-", "none") == rows[0]
    two = Report([row(attack="A"), row(attack="B")])
    assert two.row("Blur", "adaptive") == two.rows[0]
    assert two.row("Blur", "adaptive", "B") == two.rows[1]


def test_a_missing_row_lists_the_known_ones() -> None:
    with pytest.raises(LookupError, match=r"no row for 'Blur' seen 'bpda'; known: .*\('Blur', 'adaptive', 'PGD\(\)'\)"):
        report().row("Blur", "bpda")
    with pytest.raises(LookupError, match=r"no row for 'Blur' seen 'adaptive' under 'FGSM\(\)'; known: .*'PGD\(\)'"):
        report().row("Blur", "adaptive", "FGSM()")


class Page(HTMLParser):
    """Tags, attributes and cells of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def drawn() -> Report:
    full = report()
    full.pictures = {"input": torch.rand(2, 3, 20, 30), "its output": torch.zeros(2, 3, 20, 30)}
    return full


def test_html_needs_nothing_beside_it() -> None:
    text = drawn().html()
    page = Page(text)
    sources = [value for name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert [value[:22] for value in sources] == ["data:image/png;base64,"]
    assert page.tags.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    assert "http" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_html_shows_the_picture() -> None:
    full = drawn()
    source = next(value for name, value in Page(full.html()).attributes if name == "src")
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    expected = (full.overview() * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(image, expected)


def test_html_escapes_every_text() -> None:
    full = Report([row(EVIL, EVIL, EVIL)], [EVIL], {EVIL: EVIL})
    plain, page = Page(report().html()), Page(full.html(title=EVIL))
    assert page.tags == plain.tags
    assert page.text.count(EVIL) == 6  # title and heading, three cells, the verdict
    assert Page(full._repr_html_()).text.count(EVIL) == 4
    assert json.loads(page.text[-2]) == {EVIL: EVIL}


def test_html_of_a_notebook_marks_the_worst_case() -> None:
    text = report()._repr_html_()
    assert text.count('<tr class="worst">') == 1
    assert text.count("<tr") == 4
    assert text.count("<td class=n>") == 9


@pytest.mark.parametrize(
    ("count", "height", "width", "scale"), [(1, 20, 30, 6), (3, 20, 30, 6), (2, 40, 160, 1), (2, 33, 159, 2), (1, 50, 200, 1)]
)
def test_overview_size(count: int, height: int, width: int, scale: int) -> None:
    names = ["input", "output, no attack", "a rather long name that takes several lines"]
    picture = Report([], pictures={name: torch.rand(count, 3, height, width) for name in names}).overview()
    assert picture.shape == (3, 58 + count * (height * scale + 6), 3 * (width * scale + 6))
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_overview_shows_every_image_in_its_place() -> None:
    levels = {"a": torch.tensor([0.2, 0.4]), "b": torch.tensor([0.6, 0.8])}
    pictures = {name: level.view(2, 1, 1, 1).expand(2, 3, 10, 160).clone() for name, level in levels.items()}
    picture = Report([], pictures=pictures).overview()
    for column, name in enumerate("ab"):
        for line in range(2):
            top, left = 58 + line * 16, column * 166
            assert (picture[:, top : top + 10, left : left + 160] == levels[name][line]).all()
            assert (picture[:, top + 10 : top + 16, left : left + 160] == 1).all()
        assert (picture[:, :58, column * 166 : column * 166 + 160] < 0.5).any()  # a label, black on white


def test_no_pictures_no_overview() -> None:
    with pytest.raises(ValueError, match="pictures: expected at least one, got none"):
        report().overview()


def test_save_writes_all_forms(tmp_path: Path) -> None:
    full = drawn()
    full.save(tmp_path / "out", title="A title")
    files = ["overview.png", "report.html", "report.json", "report.md"]
    assert inside(tmp_path / "out") == files
    assert (tmp_path / "out" / "report.json").read_text(encoding="utf-8") == full.json()
    assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8") == full.markdown()
    assert "<title>A title</title>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    size = tuple(full.overview().shape[:0:-1])
    assert Image.open(tmp_path / "out" / "overview.png").size == size


def test_save_without_pictures(tmp_path: Path) -> None:
    report().save(str(tmp_path))
    assert inside(tmp_path) == ["report.html", "report.json", "report.md"]
