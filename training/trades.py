"""Train an auxiliary network for AGDM with TRADES: the bundled street segmenter tuned, or a LeNet-5 on digits.

    python training/trades.py street --data CAMVID --out runs/trades-street
    python training/trades.py digits --data FOLDER --out runs/trades-digits

Writes weights.safetensors, those with the best validation under attack. FOLDER holds train and test digits as npz files.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

import robustrestore as rr
from windows import Windows


def street(options: argparse.Namespace) -> tuple[nn.Module, rr.Recipe, object, rr.Validation]:
    network, task, threat = rr.assets.street_segmenter(), rr.tasks.Segmentation(), rr.Linf(options.eps / 255)
    data = Windows(options.data)
    recipe = rr.recipes.Trades(network, task, rr.attacks.TPGD(threat, options.attack_steps, seed=None), options.beta)
    attack = rr.attacks.PGD(threat, steps=5)
    return network, recipe, data, rr.Validation(network, Windows(options.data, "val", None), task, attack, batch=4, limit=12)


def digits(options: argparse.Namespace) -> tuple[nn.Module, rr.Recipe, object, rr.Validation]:
    from published import LeNet5, images

    network, task, threat = LeNet5(), rr.tasks.Classification(), rr.Linf(0.3)
    pixels, labels = images(options.data, 10_000)
    held, data = TensorDataset(pixels[-200:], labels[-200:]), TensorDataset(pixels[:-200], labels[:-200])
    recipe = rr.recipes.Trades(network, task, rr.attacks.TPGD(threat, options.attack_steps, seed=None), options.beta)
    return network, recipe, data, rr.Validation(network, held, task, rr.attacks.PGD(threat, steps=10), batch=200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("street", "digits"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--beta", type=float, default=3.0)
    parser.add_argument("--eps", type=float, default=4, help="of 255, for street")
    parser.add_argument("--attack-steps", type=int, default=3)
    parser.add_argument(
        "--precision", default="bf16", choices=rr.training.plan.PRECISIONS, help="bf16 halves the time on recent processors"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)  # initial weights
    network, recipe, data, validation = {"street": street, "digits": digits}[options.what](options)
    plan = rr.Plan(
        options.steps, options.batch, rr.AdamW(lr=options.lr), average=0.99, precision=options.precision, seed=options.seed
    )
    print(rr.fit(recipe, data, plan, validation, options.out))
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, options.out / "weights.safetensors")


if __name__ == "__main__":
    main()
