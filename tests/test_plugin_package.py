"""An installed package adds a part: listed without being imported, imported when asked for, on the command line too."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import robustrestore as rr

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tests" / "plugin_package"
MODULE = "plugin_package_median_plus"


def _install(folder: Path, project: dict, *modules: Path) -> None:
    """What pip leaves in site-packages: the modules, and a dist-info folder with the metadata and the entry points."""
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    heads = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(heads, encoding="utf-8")
    groups = project["entry-points"].items()
    text = "\n".join(f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in points.items()) for group, points in groups)
    (info / "entry_points.txt").write_text(text + "\n", encoding="utf-8")
    for module in modules:
        shutil.copy(module, folder)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    _install(tmp_path / "site", project, PACKAGE / f"{MODULE}.py")
    return tmp_path / "site"


def _python(site: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=site)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_listed_without_being_imported_and_imported_when_asked_for(installed: Path) -> None:
    code = f"""
import sys, torch
import robustrestore as rr
assert "median_plus" in rr.Purifier.names()
assert rr.Purifier.named("blur") is rr.purifiers.Blur
assert "{MODULE}" not in sys.modules
part = rr.Purifier.named("median_plus")(share=0.25)
assert "{MODULE}" in sys.modules
assert isinstance(part, rr.Purifier) and repr(part) == "MedianPlus(share=0.25, size=3)"
rr.checks.check_component(part)
rr.checks.check_stage(part)
images = torch.rand(1, 3, 8, 9)
torch.testing.assert_close(part(images), 0.75 * images + 0.25 * rr.purifiers.Median()(images))
part.save_pretrained("saved")
"""
    _python(installed, "-c", code)
    load = f"""
import sys
import robustrestore as rr
assert "{MODULE}" not in sys.modules
print(rr.Purifier.from_pretrained("saved"))
"""
    assert _python(installed, "-c", load).strip() == "MedianPlus(share=0.25, size=3)"


def test_the_command_line_lists_and_uses_it(installed: Path) -> None:
    listed = _python(installed, "-m", "robustrestore.cli", "list")
    line = next(line for line in listed.splitlines() if "median_plus" in line)
    assert "plugin-package-median-plus" in line
    assert f"{MODULE}:MedianPlus" in line
    (installed / "in").mkdir()
    rr.data.save_image(rr.assets.photographs()["coffee"][0, :, :20, :30], installed / "in" / "a.png")
    said = _python(installed, "-m", "robustrestore.cli", "purify", "in", "out", "--stage", "median_plus(size=5)")
    assert "1 written" in said
    assert (installed / "out" / "a.png").is_file()


def test_two_packages_with_one_name_are_both_named(installed: Path) -> None:
    other = {
        "name": "other-package",
        "version": "1.0",
        "entry-points": {"robustrestore.purifiers": {"median_plus": "other_package:Median"}},
    }
    _install(installed, other)
    code = "import robustrestore as rr\ntry: rr.Purifier.names()\nexcept ValueError as error: print(error)"
    said = _python(installed, "-c", code)
    assert "plugin-package-median-plus" in said
    assert "other-package" in said
    assert "uninstall one of the two" in said


def test_a_package_that_cannot_be_imported_is_named_when_it_is_asked_for(installed: Path) -> None:
    (installed / f"{MODULE}.py").write_text("import no_such_module\n", encoding="utf-8")
    code = """
import robustrestore as rr
assert "median_plus" in rr.Purifier.names()
rr.Purifier.named("blur")
try: rr.Purifier.named("median_plus")
except LookupError as error: print(error)
"""
    said = _python(installed, "-c", code)
    assert "plugin-package-median-plus" in said
    assert "no_such_module" in said


def test_the_documentation_shows_this_package() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    for file in ("pyproject.toml", f"{MODULE}.py"):
        assert f"\n{(PACKAGE / file).read_text(encoding='utf-8')}```" in page, f"docs/plugins.md: copy {file} anew"
