"""What the command line shows: progress bars, tables, errors as one clear line; and the choice of a device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

console, errors = Console(), Console(stderr=True)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Errors of use as one clear line and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, LookupError, OSError, ImportError, ArithmeticError, RuntimeError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        errors.print(f"error: {text}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error


def progress_bar() -> Progress:
    """On the error stream, so that results can be piped."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=errors)


def track(items: Any, what: str) -> Iterator[Any]:
    """`items` with a progress bar."""
    with progress_bar() as bar:
        yield from bar.track(items, description=what)


def chosen_device(name: str) -> str:
    """The device of that name; for auto a GPU where there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not name.startswith("cuda"):
        raise ValueError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if name != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: expected a CUDA device, found none: use --device cpu")
    return str(torch.device(name))


def show(report: Any) -> None:
    """One table an attack, so that it fits a terminal of 80 columns."""
    head, body = report.table()
    for attack in dict.fromkeys(cells[1] for cells in body):
        title = {"none": "No attack", "all": "Worst of all attacks and views, per image"}.get(attack, attack)
        table = Table(title=title, title_justify="left", title_style="bold")
        for k, name in enumerate(head):
            if k != 1:
                table.add_column(name, justify="right" if k >= 3 else "left", overflow="fold")
        for cells in body:
            if cells[1] == attack:
                table.add_row(cells[0], *cells[2:])
        console.print(table)
    for verdict in report.verdicts:
        console.print(f"- {verdict}", markup=False, highlight=False)
