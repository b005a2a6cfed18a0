"""The tables of what purification costs, from results/purifiers.json."""

from typing import Any

from table_parts import lines, load


def _of(section: str) -> Any:
    return load("purifiers")[section]


def _ratio(row: dict[str, float], digits: int = 2) -> str:
    return f"{row['median']:.{digits}f} [{row['lowest']:.{digits}f}, {row['highest']:.{digits}f}]"


def overhead() -> str:
    """Purifiers down: their calls, and the time over those, for a large network and for a small one."""
    large, small = _of("overhead UNet2DModel"), _of("overhead")
    body = [
        [name, row["calls"], *(_ratio(found["rows"][name]["ratio to the floor"]) for found in (large, small))]
        for name, row in large["rows"].items()
    ]
    head = [f"{_size(large['images'])}: time over what has to be paid for", "which is", "UNet2DModel", "bundled prior"]
    return lines(head, body)


def peers() -> str:
    """diffusers' ways down: our images a second over theirs."""
    found = _of("peers")
    body = [[name, _ratio(row)] for name, row in found["images/s over theirs"].items()]
    return lines([f"{_size(found['images'])}, DDIM, {found['steps']} steps", "our images/s over theirs"], body)


def ways() -> str:
    """Ways down, networks across: time over the plain purifier, and the largest difference."""
    found = {"bundled prior": _of("optimised prior"), "UNet2DModel": _of("optimised UNet2DModel")}
    head = [cell for network in found for cell in (f"{network}: time", "largest difference")]
    body = []
    for name in found["bundled prior"]["rows"]:
        rows = [one["rows"][name] for one in found.values()]
        cells = [cell for row in rows for cell in (_ratio(row["ratio to plain"]), f"{row['largest difference']:.1e}")]
        body.append([name, *cells])
    return lines([_size(found["bundled prior"]["images"]), *head], body)


def gradients() -> str:
    """Chains down: peaks, their ratio, and time."""
    found, peaks = _of("gradients"), _of("memory")["rows"]
    body = []
    for name, row in found["rows"].items():
        held = [peaks[name][kind] for kind in ("plain 5", "5", "50")]
        body.append([name, *(f"{value:.0f}" for value in held), f"{held[2] / held[1]:.2f}", _ratio(row)])
    head = ["MiB, plain, 5 steps", "checkpointed, 5", "checkpointed, 50", "50 over 5", "time over plain"]
    return lines([f"{_size(found['images'])}, guided DDPM", *head], body)


def frame() -> str:
    """One line for each size of the frame; then memory and what tiles change."""
    found = _of("frame")
    time, held = found["time of a tile over that in half a frame"], _of("memory")["frame"]
    apart = found["difference to untiled"]
    body = [
        ["peak memory of the whole process, MiB", f"{held['purified']:.0f}"],
        ["the same with a gradient", f"{held['gradient']:.0f}"],
        *([f"time of a tile, {name} of the frame over half of it", _ratio(row)] for name, row in time.items()),
        ["largest difference to untiled, in the middle of tiles", f"{apart['in the middle of tiles']:.1e}"],
        ["the same, everywhere", f"{apart['largest']:.1e}"],
        ["mean difference", f"{apart['mean']:.1e}"],
    ]
    return lines([f"one frame of 1024 x 2048 ({found['frame']}), tiles of {found['tile']}", ""], body)


def _size(shape: list[int]) -> str:
    count, _, height, width = shape
    return f"{count} images of {height} x {width}"


TABLES = {
    "cost of purifiers": overhead,
    "cost beside diffusers": peers,
    "cost optimised": ways,
    "cost of gradients": gradients,
    "cost of a frame": frame,
}
