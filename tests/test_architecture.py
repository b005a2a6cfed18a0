"""The house: imports go down, there are no circles, nothing heavy is imported early."""

import ast
import subprocess
import sys
from pathlib import Path

import robustrestore

ROOT = Path(robustrestore.__file__).parent
FLOORS = [
    {
        "arguments",
        "images",
        "modes",
        "metrics",
        "report",
        "registry",
        "files",
        "weights",
        "networks",
        "journal",
        "verdict",
        "counting",
        "replicas",
    },
    {"component"},
    {"reach", "identity"},
    {
        "threat",
        "task",
        "stage",
        "runs",
        "vote",
        "diffusion",
        "degradation",
        "loss",
        "search",
        "attack",
        "black_box",
        "pipeline",
        "adapt",
        "feature",
        "answers",
        "levels",
        "calibrate",
        "optimise",
        "certify",
        "oracle",
        "recipe",
    },
    {
        "tasks",
        "losses",
        "attacks",
        "purifiers",
        "restorers",
        "guidances",
        "degradations",
        "data",
        "integrations",
        "assets",
        "recipes",
    },
    {
        "evaluate",
        "checks",
        "spec",
        "purify_folder",
        "adversarial_set",
        "score",
        "terminal",
        "diagnosis",
        "measurement",
        "views",
        "summary",
        "demo",
        "training",
        "cli",
        "privacy",
    },
]


def _floor(module: str) -> int:
    top = module.split(".")[0]
    return next(k for k, names in enumerate(FLOORS) if top in names)


def _imports(path: Path, everywhere: bool) -> set[str]:
    """Our own modules, as dotted names below the package, that a file imports."""
    here = path.relative_to(ROOT).with_suffix("").parts
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        base = list(here[: len(here) - node.level]) if node.level else []
        module = [*base, *(node.module or "").split(".")]
        if not node.level:
            if module[0] != "robustrestore":
                continue
            module = module[1:]
        module = [part for part in module if part]
        names = [[*module, alias.name] for alias in node.names]
        for parts in names:
            whole = ROOT.joinpath(*parts)
            known = parts if whole.with_suffix(".py").is_file() or whole.is_dir() else parts[:-1]
            if known:
                found.add(".".join(known))
    return found


def _files() -> dict[str, Path]:
    return {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for p in ROOT.rglob("*.py")
        if p != ROOT / "__init__.py"
    }


def test_every_file_has_a_floor_and_imports_only_go_down() -> None:
    for name, path in _files().items():
        for other in _imports(path, everywhere=False):
            assert _floor(other) <= _floor(name), f"{name} imports {other}, which lives above it"


def test_no_circles() -> None:
    graph = {name: {o for o in _imports(path, everywhere=False) if o != name} for name, path in _files().items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle: {' -> '.join([*trail, name])}"
        if name in done:
            return
        for other in graph.get(name, ()):
            if not other.startswith(f"{name}.") and not name.startswith(f"{other}."):
                visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("diffusers", "torchvision", "torchmetrics", "scipy", "PIL", "matplotlib", "timm", "rich", "typer")
    code = f"import sys, robustrestore; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_no_global_state_is_touched_by_importing() -> None:
    code = (
        "import torch; torch.manual_seed(3); a = torch.random.get_rng_state(); import robustrestore;"
        "assert torch.equal(a, torch.random.get_rng_state()); assert torch.is_grad_enabled()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
