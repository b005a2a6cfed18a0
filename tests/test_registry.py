"""Names to classes: taken and unknown names, plug-ins of other packages, and our own shelf against pyproject.toml."""

import importlib
import pkgutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import robustrestore as rr
from robustrestore import registry

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
Install = Callable[..., None]


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """A function that installs a made-up package with a module and entry points, for the length of a test."""
    patch, modules = pytest.MonkeyPatch(), set(sys.modules)

    def add(package: str, code: str | None, group: str, **points: str) -> None:
        folder = tmp_path / package
        info = folder / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"[robustrestore.{group}]", *(f"{name} = {target}" for name, target in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        if code is not None:
            (folder / f"{package}_code.py").write_text("from robustrestore import Purifier\n" + code)
        patch.syspath_prepend(str(folder))
        registry._announced.cache_clear()

    yield add
    patch.undo()
    for name in set(sys.modules) - modules:
        if name.endswith("_code"):
            del sys.modules[name]
    registry._announced.cache_clear()


def define(name: str) -> type[rr.Purifier]:
    class Toy(rr.Purifier, name=name):
        def run(self, images: object) -> object:
            return images

    return Toy


def define_another(name: str) -> type[rr.Purifier]:
    class Other(rr.Purifier, name=name):
        def run(self, images: object) -> object:
            return images

    return Other


def test_a_class_line_registers() -> None:
    toy = define("reg_toy")
    assert (toy.kind, toy.name) == ("purifiers", "reg_toy")
    assert rr.Purifier.named("reg_toy") is toy
    assert "reg_toy" in rr.Purifier.names()
    assert "reg_toy" not in rr.Restorer.names()
    target = f"{__name__}:define.<locals>.Toy"
    assert registry.Entry("purifiers", "reg_toy", target, "this process") in registry.entries()


def test_a_class_without_a_name_is_abstract() -> None:
    before = registry.entries()

    class Between(define("reg_toy")):  # type: ignore[misc]
        pass

    assert Between.name is None
    assert Between.kind == "purifiers"
    assert {e.name for e in registry.entries()} - {e.name for e in before} == {"reg_toy"}


def test_a_taken_name_says_who_took_it() -> None:
    first = define("reg_toy")
    message = r"purifiers 'reg_toy': expected a free name, it belongs to .*:define\.<locals>\.Toy: choose another name"
    with pytest.raises(ValueError, match=message):
        define_another("reg_toy")
    assert rr.Purifier.named("reg_toy") is first


def test_a_name_of_ours_is_taken_even_if_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(registry._classes, ("purifiers", "blur"), raising=False)
    with pytest.raises(ValueError, match=r"'blur': .* it belongs to robustrestore\.purifiers\.blur:Blur"):
        define("blur")


def test_a_name_may_be_used_again_for_another_kind() -> None:
    define("reg_toy")

    class Toy(rr.Restorer, name="reg_toy"):
        def run(self, images: object) -> object:
            return images

    assert rr.Restorer.named("reg_toy") is Toy
    assert rr.Purifier.named("reg_toy") is not Toy


def test_a_notebook_may_define_its_class_again() -> None:
    first, second = define("reg_toy"), define("reg_toy")
    assert first is not second
    assert rr.Purifier.named("reg_toy") is second


def test_an_unknown_name_lists_the_known_ones() -> None:
    define("reg_toy")
    with pytest.raises(LookupError, match=r"purifiers: no part is called 'blurr'; known: adaptive, bit_depth, blur, .*reg_toy"):
        rr.Purifier.named("blurr")
    with pytest.raises(LookupError, match=r"nonsense: no part is called 'x'; known: none"):
        registry.find("nonsense", "x")


GOOD = 'class Smooth(Purifier, name="reg_smooth"):\n    def run(self, images):\n        return images\n'


def test_plug_ins_are_listed_without_being_imported(install: Install) -> None:
    install("reg_plug", GOOD, "purifiers", reg_smooth="reg_plug_code:Smooth")
    assert "reg_smooth" in rr.Purifier.names()
    entry = next(e for e in registry.entries("purifiers") if e.name == "reg_smooth")
    assert entry == registry.Entry("purifiers", "reg_smooth", "reg_plug_code:Smooth", "reg_plug")
    assert "reg_plug_code" not in sys.modules
    assert rr.Purifier.named("reg_smooth") is sys.modules["reg_plug_code"].Smooth
    assert [e for e in registry.entries("purifiers") if e.name == "reg_smooth"] == [entry]


def test_the_name_of_a_plug_in_is_taken(install: Install) -> None:
    install("reg_plug", GOOD, "purifiers", reg_smooth="reg_plug_code:Smooth")
    with pytest.raises(ValueError, match="it belongs to reg_plug_code:Smooth"):
        define("reg_smooth")


def test_a_class_may_be_announced_where_its_package_shows_it(install: Install, tmp_path: Path) -> None:
    install("reg_plug", None, "purifiers", reg_smooth="reg_plug_code:Smooth")
    folder = tmp_path / "reg_plug" / "reg_plug_code"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .inner_code import Smooth\n")
    (folder / "inner_code.py").write_text("from robustrestore import Purifier\n" + GOOD)
    assert rr.Purifier.named("reg_smooth").__module__ == "reg_plug_code.inner_code"


def test_a_module_in_place_of_a_class_is_named(install: Install) -> None:
    install("reg_plug", GOOD, "purifiers", reg_smooth="reg_plug_code")
    with pytest.raises(LookupError, match=r"of package reg_plug: reg_plug_code failed to import: .*belongs to reg_plug_code:"):
        rr.Purifier.named("reg_smooth")


BROKEN = [
    ("import nothing_of_that_name\n", "Smooth", "failed to import: No module named 'nothing_of_that_name'"),
    ("1 / 0\n", "Smooth", "failed to import: division by zero"),
    (GOOD, "Smoth", "failed to import: .*Smoth"),
    (GOOD.replace("reg_smooth", "reg_other"), "Smooth", 'reg_plug_code:Smooth has no name="reg_smooth" in its class line'),
    (None, "Smooth", "failed to import: No module named 'reg_plug_code'"),
]


@pytest.mark.parametrize(("code", "cls", "message"), BROKEN)
def test_a_broken_plug_in_says_which_package_is_broken(install: Install, code: str | None, cls: str, message: str) -> None:
    install("reg_plug", code, "purifiers", reg_smooth=f"reg_plug_code:{cls}")
    assert "reg_smooth" in rr.Purifier.names()  # the list does not break with it
    with pytest.raises(LookupError, match=f"purifiers 'reg_smooth' of package reg_plug: .*{message}"):
        rr.Purifier.named("reg_smooth")


def test_two_packages_with_one_name_are_told_apart(install: Install) -> None:
    install("reg_plug", GOOD, "purifiers", reg_smooth="reg_plug_code:Smooth")
    install("reg_rival", GOOD, "purifiers", reg_smooth="reg_rival_code:Smooth")
    with pytest.raises(ValueError, match=r"'reg_smooth': announced by reg_\w+ and by reg_\w+: uninstall one"):
        rr.Purifier.names()


def test_one_package_found_twice_is_no_conflict(install: Install) -> None:
    install("reg_plug", GOOD, "purifiers", reg_smooth="reg_plug_code:Smooth")
    install("reg_again", None, "purifiers", reg_smooth="reg_plug_code:Smooth")
    assert rr.Purifier.names().count("reg_smooth") == 1


def test_entries_are_sorted_and_come_by_kind() -> None:
    everything = registry.entries()
    keys = [(e.kind, e.name) for e in everything]
    assert keys == sorted(keys)
    assert [e for e in everything if e.kind == "threats"] == registry.entries("threats")
    assert [e.name for e in registry.entries("threats")] == ["l2", "linf", "normalised_linf"]


def _named(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        if vars(sub).get("name") is not None and sub.__module__.startswith("robustrestore."):
            yield sub
        yield from _named(sub)


def test_every_part_of_ours_is_announced_and_every_announced_part_exists() -> None:
    for module in pkgutil.walk_packages(rr.__path__, "robustrestore."):
        importlib.import_module(module.name)
    groups = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["entry-points"]
    announced = {
        (group.removeprefix("robustrestore."), name, target)
        for group, points in groups.items()
        for name, target in points.items()
    }
    assert {(c.kind, c.name, f"{c.__module__}:{c.__qualname__}") for c in _named(rr.Component)} == announced
