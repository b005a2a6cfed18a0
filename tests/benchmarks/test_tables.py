"""Every table in README, docs and model cards is what the committed results say."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", _tables().PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page_shows_the_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert _tables().filled(text) == text, "run python benchmarks/tables.py"


def test_the_main_pages_have_tables() -> None:
    assert "<!-- table street -->" in (ROOT / "README.md").read_text(encoding="utf-8")
