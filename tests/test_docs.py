"""What the documentation shows runs, and it shows every part."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from robustrestore import cli, registry

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "README.md"]
NO_RUN = "<!-- no-run"
TASKS = ("label", "map", "image")  # the columns of the table of attacks


@dataclass(frozen=True)
class Block:
    language: str
    line: int  # of the first line of code, from 1
    code: str
    runs: bool


def blocks(text: str) -> Iterator[Block]:
    """The fenced code blocks of a page; one behind a `<!-- no-run -->` comment is not to be run."""
    lines = text.splitlines()
    starts = [k for k, line in enumerate(lines) if line.startswith("```")]
    assert len(starts) % 2 == 0, "a code block is not closed"
    for first, last in zip(starts[::2], starts[1::2], strict=True):
        before = next((line for line in reversed(lines[:first]) if line.strip()), "")
        code = "\n".join(lines[first + 1 : last]) + "\n"
        yield Block(lines[first][3:].strip(), first + 2, code, not before.startswith(NO_RUN))


def run_commands(code: str) -> None:
    """Each `robustrestore` line of a shell block, in this process."""
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["robustrestore"]:
            result = CliRunner().invoke(cli.app, words[1:])
            assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.usefixtures("names_put_back")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_code_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": f"docs_{page.stem.replace('-', '_')}"}
    if page.name == "CONTRIBUTING.md":  # its example stands in a file of the package
        namespace = {"__name__": "robustrestore.attacks.ni_fgsm", "__package__": "robustrestore.attacks"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "toml":
            tomllib.loads(block.code)
        elif block.language == "python" and block.runs:
            padded = "\n" * (block.line - 1) + block.code  # so that a traceback names the line of the page
            exec(compile(padded, str(page), "exec"), namespace)
        elif block.language == "sh" and block.runs:
            run_commands(block.code)


def test_blocks_are_found_and_marked() -> None:
    page = "a\n```python\nx = 1\n```\n\n<!-- no-run: why -->\n```python\ny\n```\n```sh\nls\n```\n"
    found = [(b.language, b.line, b.code, b.runs) for b in blocks(page)]
    assert found == [("python", 3, "x = 1\n", True), ("python", 8, "y\n", False), ("sh", 11, "ls\n", True)]


def test_few_blocks_are_not_run() -> None:
    every = [block for page in PAGES for block in blocks(page.read_text(encoding="utf-8")) if block.language == "python"]
    assert sum(not block.runs for block in every) <= len(every) / 5


@pytest.mark.parametrize("entry", [e for e in registry.entries() if e.package == "robustrestore"], ids=lambda e: e.name)
def test_every_part_is_on_the_page_of_parts_and_in_the_reference(entry: registry.Entry) -> None:
    parts = (ROOT / "docs" / "parts.md").read_text(encoding="utf-8")
    assert f"`{entry.name}`" in parts or entry.kind == "pipelines"
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert re.search(rf"^::: robustrestore\.(\w+\.)*{entry.target.rpartition(':')[2]}$", reference, flags=re.MULTILINE)


def test_every_public_name_is_in_the_reference() -> None:
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    names = re.findall(r"^from \.(\S+) import (\w+) as", (ROOT / "src/robustrestore/__init__.py").read_text(), re.MULTILINE)
    assert names
    for module, name in names:
        assert re.search(rf"^::: robustrestore\.({module}|([\w.]+\.)?{name})$", reference, flags=re.MULTILINE), name


def test_no_page_is_left_out_of_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").as_posix() in menu


def test_the_table_of_attacks_and_tasks_is_true() -> None:
    page = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    table = page.partition("<!-- attacks by task -->\n")[2].partition("\n\n")[0].splitlines()[2:]
    said = {}
    for line in table:
        names, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for name in re.findall(r"`(\w+)`", names):
            said[name] = {task for task, cell in zip(TASKS, cells, strict=True) if cell.startswith("yes")}
            assert all(cell.startswith(("yes", "no")) for cell in cells), name
    entries = [entry for entry in registry.entries("attacks") if entry.package == "robustrestore"]
    classes = {entry.target.rpartition(":")[2]: registry.find("attacks", entry.name) for entry in entries}
    true = {name: set(cls.answers) for name, cls in classes.items()} | {"TorchAttacks": {"label", "map"}}  # an instance's say
    assert said == true
