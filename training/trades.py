"""Train an auxiliary network for AGDM: with TRADES, or for a derain network by plain adversarial training.

    python training/trades.py street --data CAMVID --out runs/trades-street
    python training/trades.py rain --data PHOTOGRAPHS --out runs/trades-rain
    PYTHONPATH=benchmarks python training/trades.py digits --data DIGITS.npz --out runs/trades-digits
    PYTHONPATH=benchmarks python training/trades.py aerial --data UCMERCED --start WEIGHTS --out runs/trades-aerial

Writes weights.safetensors, those with the best validation under attack. "street" tunes the bundled segmenter, validated on the
first 12 frames of CamVid's val part; "digits" trains a LeNet-5 on training digits; "aerial" tunes the RegNetX-200MF whose
WEIGHTS training/aerial.py wrote, every sixth training image set aside for validation. "rain" tunes the bundled derain network
on a folder of photographs under rain, the last eight for validation: TRADES needs classes, so half of each batch is attacked.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

import robustrestore as rr
from aerial import SIZE, STORED, split
from aerial import windows as cut_windows
from windows import Windows

WINDOW = (96, 96)  # of photographs under rain


def street(options: argparse.Namespace) -> tuple[nn.Module, rr.Recipe, object, rr.Validation]:
    network, task, threat = rr.assets.street_segmenter(), rr.tasks.Segmentation(), rr.Linf(options.eps / 255)
    data = Windows(options.data)
    recipe = rr.recipes.Trades(network, task, rr.attacks.TPGD(threat, options.attack_steps, seed=None), options.beta)
    attack = rr.attacks.PGD(threat, steps=5)
    return network, recipe, data, rr.Validation(network, Windows(options.data, "val", None), task, attack, batch=4, limit=12)


def rain(options: argparse.Namespace) -> tuple[nn.Module, rr.Recipe, object, rr.Validation]:
    network, task, threat = rr.restorers.UNet.derain().requires_grad_(True), rr.tasks.Restoration(), rr.Linf(options.eps / 255)
    photographs = rr.data.ImageFolder(options.data)
    cut = len(photographs) - 8
    if cut < 1:
        raise SystemExit(f"rain: expected more than 8 photographs in {options.data}, got {len(photographs)}")
    first, last = Subset(photographs, range(cut)), Subset(photographs, range(cut, len(photographs)))
    weather = [rr.degradations.Rain.severity(level, seed=level) for level in range(1, 6)]
    data = rr.data.Crops(rr.data.Degraded(first, weather), WINDOW, flip=True)
    held = rr.data.Crops(rr.data.Degraded(last, rr.degradations.Rain()), WINDOW)
    recipe = rr.recipes.AdversarialTraining(network, task, rr.attacks.PGD(threat, options.attack_steps, seed=None), share=0.5)
    fixed = [held[k] for k in range(8)]  # one window of each, the same at every look
    return network, recipe, data, rr.Validation(network, fixed, task, rr.attacks.PGD(threat, steps=5), batch=8)


def digits(options: argparse.Namespace) -> tuple[nn.Module, rr.Recipe, object, rr.Validation]:
    from published import LeNet5, images

    network, task, threat = LeNet5(), rr.tasks.Classification(), rr.Linf(0.3)
    pixels, labels = images(options.data, 10_000)
    held, data = TensorDataset(pixels[-200:], labels[-200:]), TensorDataset(pixels[:-200], labels[:-200])
    recipe = rr.recipes.Trades(network, task, rr.attacks.TPGD(threat, options.attack_steps, seed=None), options.beta)
    return network, recipe, data, rr.Validation(network, held, task, rr.attacks.PGD(threat, steps=10), batch=200)


class Scenes(Dataset[dict[str, Tensor]]):
    """Random windows of training images of UC Merced, as training/aerial.py cuts them; or those set aside, the middle alone."""

    def __init__(self, root: Path, held: bool = False) -> None:
        images, self.labels = split(root, "train", STORED)
        chosen = (torch.arange(len(images)) % 6 == 0) == held
        self.images, self.labels, self.held = images[chosen], self.labels[chosen], held

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        image, edge = self.images[place : place + 1], (STORED - SIZE) // 2
        if self.held:
            cut = image[:, :, edge : edge + SIZE, edge : edge + SIZE].float() / 255
        else:
            cut = cut_windows(image, torch.Generator().manual_seed(int(torch.randint(2**31, ()))))
        return {"images": cut[0], "target": self.labels[place]}


def aerial(options: argparse.Namespace) -> tuple[nn.Module, rr.Recipe, object, rr.Validation]:
    from ucmerced import network as trained

    if options.start is None:
        raise SystemExit("aerial: expected --start WEIGHTS, those that training/aerial.py wrote")
    task, threat = rr.tasks.Classification(), rr.Linf(options.eps / 255)
    network = trained("regnetx_002", options.start).requires_grad_(True)
    recipe = rr.recipes.Trades(network, task, rr.attacks.TPGD(threat, options.attack_steps, seed=None), options.beta)
    held = Scenes(options.data, held=True)
    return network, recipe, Scenes(options.data), rr.Validation(network, held, task, rr.attacks.PGD(threat, steps=5), batch=35)


MAKERS = {"street": street, "rain": rain, "digits": digits, "aerial": aerial}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=MAKERS)
    parser.add_argument("--start", type=Path, help="weights to go on from, for aerial")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--beta", type=float, default=3.0, help="of TRADES; rain has none")
    parser.add_argument("--eps", type=float, default=4, help="of 255; digits always have 0.3 of 1")
    parser.add_argument("--attack-steps", type=int, default=3)
    parser.add_argument(
        "--precision", default="bf16", choices=rr.training.plan.PRECISIONS, help="bf16 halves the time on recent processors"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.start is not None and options.what != "aerial":
        raise SystemExit(f"--start: expected none for {options.what}, it goes on from bundled weights or begins anew")
    if options.what == "digits" and not options.data.is_file():
        raise SystemExit(f"digits: expected --data FILE.npz of training digits, got {options.data}")
    torch.manual_seed(options.seed)  # initial weights
    network, recipe, data, validation = MAKERS[options.what](options)
    plan = rr.Plan(
        options.steps, options.batch, rr.AdamW(lr=options.lr), average=0.99, precision=options.precision, seed=options.seed
    )
    print(rr.fit(recipe, data, plan, validation, options.out))
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, options.out / "weights.safetensors")


if __name__ == "__main__":
    main()
