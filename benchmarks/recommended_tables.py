"""Tables of `recipes.Recommended`: rows down, who attacks across."""

from collections.abc import Callable
from functools import partial
from typing import Any

from table_parts import RESULTS, lines, load

PENDING = "Not measured yet."
SIZES = (
    "CosPGD-20 2/255", "CosPGD-20 4/255", "PGD-20 4/255", "CosPGD-20 8/255", "CosPGD-20 4/255, dry", "Square 8/255",
)  # fmt: skip


def _found() -> dict[str, Any]:
    found: dict[str, Any] = load("recommended") if (RESULTS / "recommended.json").is_file() else {}
    return found


def main(metric: str = "mean IoU", only: tuple[str, ...] = ()) -> str:
    """Value and interval over images, first seed; `only`: columns beside the usual ones."""
    if not (found := _found()):
        return PENDING
    worst = found["about"]["worst"]
    asked = only or ("dry", "rain", worst)
    body = []
    for row in found["rows"]:
        cells = found["rows"][row]
        if not only or only[-1] in cells:
            told = [cells[column][metric] for column in asked]
            body.append([row, *(f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in told)])
    return lines([metric, *(column.replace("worst of", "rain, the worst of") for column in asked)], body)


def seeds() -> str:
    """Each seed of the rows that have several."""
    if not (found := _found()):
        return PENDING
    worst = found["about"]["worst"]
    several = {row: list(found["seeds"][row].values()) for row in found["rows"] if len(found["seeds"][row]) > 1}
    body = [
        [row, *(", ".join(f"{one[c]:.3f}" for one in told) for c in ("dry", "rain", worst))] for row, told in several.items()
    ]
    return lines(["mean IoU, a seed each", "dry", "rain", f"rain, {worst}"], body)


def verdicts() -> str:
    """In words."""
    return "\n".join(f"- {text}" for text in _found().get("verdicts", [])) or PENDING


def setting() -> str:
    """How it was trained and measured."""
    if not (found := _found()):
        return PENDING
    about, told = found["about"], found["about"]["training"]
    return (
        f"{told['steps']} steps of {told['batch']} images of {about['size'][0]} x {about['size'][1]}, AdamW {told['lr']:g}, "
        f"{told['precision']}, PGD-{told['attack_steps']} at {255 * told['eps']:.0f}/255 on {told['share']:.0%} of each batch; "
        f"weight {told['weight']:g}; measured on {about['frames']} validation frames; {about['device']}, "
        f"torch {about['versions']['torch']}."
    )


TABLES: dict[str, Callable[[], str]] = {
    "recommended": main,
    "recommended_accuracy": partial(main, "pixel accuracy"),
    "recommended_sizes": partial(main, only=SIZES),
    "recommended_seeds": seeds,
    "recommended_verdicts": verdicts,
    "recommended_setting": setting,
}
