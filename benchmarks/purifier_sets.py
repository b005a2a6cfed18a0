"""The sets that purifiers are measured on: CamVid, MNIST, rainy photographs; and a fourth where its loader is there."""

import argparse
import importlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ddpm_mnist
import published
import robustrestore as rr
from purifier_rows import Case
from robustrestore.purifiers import Diffusion

DIGITS = 200  # timesteps of noise on MNIST
MIDDLE, FEW = (128, 192), 8  # of photographs of a folder: the part that is taken, and how many
TUNING = 4  # images that choose AGDM's strength
ROBUST, VOTE = "adversarial training, no purifier", "both networks vote, no purifier"


def camvid(data: Path, full: bool, auxiliary: Path | None) -> Case:
    """The bundled segmenter and prior on evenly spaced validation frames; `data`: the CamVid folder."""
    dataset = rr.data.CamVid(data, "val", rr.assets.STREET_SIZE)
    frames = len(dataset) if full else 8
    picks = [k * len(dataset) // frames for k in range(frames)]
    others = rr.data.CamVid(data, "train", rr.assets.STREET_SIZE)
    default, model = Diffusion.default(), rr.assets.street_segmenter()
    robust = None if auxiliary is None else same(rr.assets.street_segmenter(), auxiliary)
    return Case(
        model=model,
        batches=[tuple(t[None] for t in dataset[k]) for k in picks],
        task=rr.tasks.Segmentation(),
        denoiser=default.denoiser,
        sigma=default.sigma,
        **_effort(full, attack_steps=10, samples=2),
        auxiliary=robust,
        alone={} if robust is None else {ROBUST: robust, VOTE: _Mean(model, robust)},
        agdm=0.3,
        tuning=[tuple(t[None] for t in others[k * len(others) // TUNING]) for k in range(TUNING)],
        checkpointed=full,
        about={"frames": picks, "size": list(rr.assets.STREET_SIZE)},
    )


def mnist(data: Path, full: bool, auxiliary: Path | None) -> Case:
    """A published LeNet5 and DDPM; `data`: the folder that holds mnist and weights."""
    weights, count = data / "weights", 512 if full else 128
    images, labels = published.images(data / "mnist" / "test_first5000.npz", count)
    robust = published.lenet5(weights / "mnist_lenet5_adv.pt") if auxiliary is None else same(published.LeNet5(), auxiliary)
    model = published.lenet5(weights / "mnist_lenet5_clean.pt")
    return Case(
        model=model,
        batches=list(zip(images.split(64), labels.split(64), strict=True)),
        tuning=[published.images(data / "mnist" / "train_first20000.npz", 64)],
        task=rr.tasks.Classification(),
        denoiser=ddpm_mnist.load(weights / "ddpm_mnist.pt"),
        sigma=rr.diffusion.TimestepGrid().sigma(DIGITS),
        eps=(0.3, 0.1, 0.2),
        **_effort(full, attack_steps=10, samples=2),
        pixel=5.0,
        agdm=100.0,
        auxiliary=robust,
        terms=True,
        known=(*Case.known, "AGDM, features alone", "AGDM, class alone"),
        alone={ROBUST: robust, VOTE: _Mean(model, robust)},
        about={"timesteps": DIGITS, "auxiliary": "adversarially trained LeNet5, published" if auxiliary is None else "own"},
    )


def photographs(data: Path | None, full: bool, auxiliary: Path | None) -> Case:
    """The bundled derain network and prior on photographs under rain, without a folder `data` on the bundled four.

    `auxiliary`: weights of the same network after adversarial training (training/trades.py rain), for AGDM by features alone.
    """
    default, found = Diffusion.default(), _rainy(data, None if full else FEW + TUNING)
    robust = None if auxiliary is None else same(rr.restorers.UNet.derain(), auxiliary)
    count = len(found) if full or data is None else FEW
    return Case(
        model=rr.restorers.UNet.derain(),
        batches=found[:count],
        task=rr.tasks.Restoration(),
        denoiser=default.denoiser,
        sigma=default.sigma,
        **_effort(full, attack_steps=10, samples=2),
        auxiliary=robust,
        alone={} if robust is None else {ROBUST: robust},
        agdm=20.0,
        class_weight=0.0,
        tuning=found[count:][:TUNING],
        checkpointed=full,
        about={
            "degradation": repr(rr.degradations.Rain()),
            "photographs": "bundled" if data is None else f"{data.name}, {MIDDLE} in the middle",
        },
    )


def _rainy(folder: Path | None, count: int | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Photographs [1, 3, height, width] under rain, and dry: the middles of a folder's, in order, or the bundled four."""
    found = list(rr.assets.photographs().values()) if folder is None else [*_middles(folder, count)]
    return [(rr.degradations.Rain()(image, [k]), image) for k, image in enumerate(found)]


def _middles(folder: Path, count: int | None) -> Iterator[torch.Tensor]:
    for path in rr.data.find_images(folder)[:count]:
        image, (height, width) = rr.data.load_image(path), MIDDLE
        if image.shape[1] < height or image.shape[2] < width:
            raise SystemExit(f"{path}: expected at least {list(MIDDLE)} pixels, got {list(image.shape[1:])}: take it out")
        top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
        yield image[None, :, top : top + height, left : left + width]


def _effort(full: bool, attack_steps: int, samples: int) -> dict[str, int]:
    """How hard is attacked: for a processor, or for a GPU."""
    if full:
        return {"steps": 10, "fewer": 3, "runs": 10, "attack_steps": 50, "samples": 10}
    return {"steps": 3, "fewer": 1, "runs": 3, "attack_steps": attack_steps, "samples": samples}


def same(network: nn.Module, weights: Path) -> nn.Module:
    """The network with other weights, a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise SystemExit(f"{weights}: expected a safetensors file of a {type(network).__name__} as here: {said}") from error
    return network.eval()


class _Mean(nn.Module):
    """The mean of two networks' probabilities, as its logarithm."""

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return rr.MeanVote(len(self.networks))([network(images) for network in self.networks])


SETS: dict[str, Callable[[Any, bool, Path | None], Case]] = {"camvid": camvid, "mnist": mnist, "photographs": photographs}


def arguments(script: str, doc: str) -> argparse.ArgumentParser:
    """What every script that measures a set is asked."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--set", required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--auxiliary", type=Path, help="weights of AGDM's robust network; without it AGDM may have no row")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--progress", type=Path, default=Path(tempfile.gettempdir()) / f"robustrestore-{script}")
    return parser


def guided(options: argparse.Namespace) -> Case:
    """The small case of a set, with AGDM's network, or an exit that says what is missing."""
    case = made(options.set, options.data, False, options.auxiliary)
    if case.auxiliary is None:
        raise SystemExit("expected --auxiliary WEIGHTS, a robust network (training/trades.py), got none: AGDM has no default")
    return case


def made(name: str, data: Path | None, full: bool, auxiliary: Path | None) -> Case:
    """The case of a set, or an exit that says what is missing."""
    make = found(name)
    if data is None and name in ("camvid", "mnist", "ucmerced"):
        raise SystemExit(f"{name}: expected --data FOLDER, got none")
    try:
        return make(data, full, auxiliary)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SystemExit(f"{name}: expected other files in --data {data}: {error}") from error


def found(name: str) -> Callable[[Path | None, bool, Path | None], Case]:
    """The function of a set; of another name than these, `case` of the module `purifier_NAME` beside this file."""
    if name in SETS:
        return SETS[name]
    try:
        make: Callable[[Path | None, bool, Path | None], Case] = importlib.import_module(f"purifier_{name}").case
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and not f"purifier_{name}".startswith(str(error.name)):
            raise
        known = [*SETS, "ucmerced"]
        raise SystemExit(f"--set: expected one of {known}, or `case` in a module purifier_{name}.py, got {name!r}") from error
    return make
