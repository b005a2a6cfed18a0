"""The bar that a training shows: step, losses, learning rate, time left; on the error stream, on a terminal only."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def training_bar(steps: int, done: int, quiet: bool = False) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """A function (step, values) to call after each step; it does nothing where nobody looks."""
    if quiet:
        yield lambda step, values: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (console.is_terminal or console.is_jupyter)) as bar:
        task = bar.add_task("training", total=steps, completed=done)

        def show(step: int, values: Mapping[str, float]) -> None:
            told = " ".join(f"{name} {value:.4g}" for name, value in values.items())
            bar.update(task, completed=step, description=told)

        yield show
