"""What anls.py compares: data sets, networks and attacks, each purified at every level once and kept on disk.

A cell is a set, a network and an attack. Of a cell is kept, for every level and image: the network's answer, and the features
of several modules, averaged over positions as `rr.Features` does it. Every rule is then judged on the very same images.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import foreign_model
import robustrestore as rr
import ucmerced
from robustrestore.calibrate import sigma_grid
from robustrestore.modes import seeded

TIMESTEPS = [0, *range(10, 151, 10)]
LEVELS = [0.0, *sigma_grid()]
ATTACK_STEPS = 10
FRAMES = 48


@dataclass(frozen=True)
class Case:
    """A network on a set. The first of `modules` is what UAD-RS takes; images of `test` come in halves (attacked, held out)."""

    name: str
    model: nn.Module
    modules: tuple[str, ...]
    train: Callable[[], Tensor]
    test: Callable[[], tuple[Tensor, Tensor]]
    halves: tuple[tuple[Tensor, Tensor], ...]
    task: rr.Task


def camvid(root: Path, name: str, model: nn.Module, modules: tuple[str, ...]) -> Case:
    """The first frames of the validation drive attacked, its last ones held out: neighbours of a frame are near copies."""

    def frames(split: str, picks: Iterable[int] | None = None) -> tuple[Tensor, Tensor]:
        data = rr.data.CamVid(root, split, rr.assets.STREET_SIZE)
        images, labels = zip(*(data[k] for k in (range(len(data)) if picks is None else picks)), strict=True)
        return torch.stack(images), torch.stack(labels)

    count = len(rr.data.CamVid(root, "val"))
    picks = [*range(FRAMES), *range(count - FRAMES, count)]
    halves = ((torch.arange(FRAMES), torch.arange(FRAMES, 2 * FRAMES)),)
    return Case(name, model, modules, lambda: frames("train")[0], lambda: frames("val", picks), halves, rr.tasks.Segmentation())


def aerial(root: Path, name: str, model: nn.Module, modules: tuple[str, ...]) -> Case:
    """Every second test image attacked, the others held out; and the other way round."""
    index = torch.arange(len(ucmerced.split(root, "test")[1]))
    even, odd = index[::2], index[1::2]
    return Case(
        name,
        model,
        modules,
        lambda: ucmerced.split(root, "train")[0],
        lambda: ucmerced.split(root, "test"),
        ((even, odd), (odd, even)),
        rr.tasks.Classification(),
    )


def cases(camvid_root: Path, espnet: Path, ucmerced_root: Path, networks: Path) -> dict[str, Callable[[], Case]]:
    """All four, made when asked for; `networks` holds what training/aerial.py wrote, as aerial-NAME/weights.safetensors."""

    def flown(name: str, modules: tuple[str, ...]) -> Callable[[], Case]:
        weights = networks / f"aerial-{name}" / "weights.safetensors"
        return lambda: aerial(ucmerced_root, f"UC Merced, {name}", ucmerced.network(name, weights), modules)

    street, published = ("model.encoder.model.s4", "model.encoder.model.s3", "model"), ("b3", "b2")
    inside = (*(f"model.network.encoder.{name}" for name in published), "model")
    return {
        "street": lambda: camvid(camvid_root, "CamVid, bundled segmenter", rr.assets.street_segmenter(), street),
        "espnet": lambda: camvid(camvid_root, "CamVid, ESPNet", foreign_model.wrapped(espnet).eval(), inside),
        "slim_resnet18": flown("slim_resnet18", ("model.global_pool", "model.layer3", "model")),
        "regnetx_002": flown("regnetx_002", ("model.head.global_pool", "model.s3", "model")),
    }


def look(case: Case, images: Tensor) -> dict[str, Tensor]:
    """Answers as class numbers in 8 bits, and the features of each module, in one forward."""
    found: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.update({name: output.flatten(2).mean(2) if output.dim() > 2 else output})

    handles = [case.model.get_submodule(name).register_forward_hook(note(name)) for name in case.modules]
    try:
        with torch.no_grad():
            answers = case.model(images).argmax(1).to(torch.uint8)
    finally:
        for handle in handles:
            handle.remove()
    return {"answers": answers, **found}


def in_bfloat16(stage: rr.Stage, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16):
        return stage(images).float().contiguous(memory_format=torch.channels_last)


def sweep(case: Case, images: Tensor, levels: list[float], what: str) -> dict[str, Tensor]:
    """`look` at the images purified at each level in one step, noise as in `select_noise_level`: [levels, N, ...].

    The prior computes in bfloat16 here, in half the time: the estimate moves by a thousandth of the pixels' range.
    """
    prior, rows = rr.assets.prior().to(memory_format=torch.channels_last), []
    case.model.to(memory_format=torch.channels_last)
    for level in track(levels, what):
        stage = rr.purifiers.Diffusion(prior, sigma=level, steps=1, seed=None)
        with seeded(0), torch.no_grad():
            pieces = [look(case, in_bfloat16(stage, x)) for x in images.split(8)]
        rows.append({name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]})
    return {name: torch.stack([row[name] for row in rows]).contiguous() for name in rows[0]}


def kept(file: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` gave, now or in an earlier run."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        save_file(make(), part)
        part.replace(file)
    return load_file(file)


def attacked(case: Case, eps: float, images: Tensor, labels: Tensor) -> Tensor:
    """PGD against the bare network; eps is of 255."""
    attack, pieces = rr.attacks.PGD(rr.Linf(eps / 255), steps=ATTACK_STEPS), zip(images.split(8), labels.split(8), strict=True)
    return torch.cat([attack(case.model, x, case.task.untargeted(y)) for x, y in track(list(pieces), f"PGD {eps:g}")])


def measured(case: Case, key: str, sizes: list[float], folder: Path) -> dict[str, dict[str, Tensor]]:
    """Every table of a case: train images as they are, clean and attacked test images at each level."""
    images, labels = case.test()
    found = {"labels": {"labels": labels}}
    found["train"] = kept(folder / f"{key}-train.safetensors", lambda: sweep(case, case.train(), [0.0], "train"))
    found["clean"] = kept(folder / f"{key}-clean.safetensors", lambda: sweep(case, images, LEVELS, "clean"))
    chosen = torch.cat([half for half, _ in case.halves]).sort().values
    for eps in sizes:

        def make(eps: float = eps) -> dict[str, Tensor]:
            return sweep(case, attacked(case, eps, images[chosen], labels[chosen]), LEVELS, f"{eps:g}")

        found[f"{eps:g}"] = kept(folder / f"{key}-{eps:g}.safetensors", make)
    return found
