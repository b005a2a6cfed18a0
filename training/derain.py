"""Train the bundled derain network on images free for any use under synthetic rain, starting from the prior.

python training/derain.py --ucmerced PATH --prior runs/prior --out runs/derain
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import corpus
import loop
from prior import held_out
from robustrestore.degradations import Rain
from robustrestore.networks import UNetBody
from robustrestore.weights import read_tensors

PATCH = 96


def rain(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rain with settings drawn anew for each image; one in eight stays dry, so that the network learns to do nothing."""
    out = []
    for image in images.split(1):
        u = torch.rand(8, generator=generator).tolist()
        if u[7] < 0.125:
            out.append(image)
            continue
        weather = Rain(
            angle=-40 + 80 * u[0],
            length=8 + 30 * u[1],
            density=1 + 14 * u[2] ** 2,
            brightness=0.15 + 0.65 * u[3],
            haze=0.3 * u[4] ** 2,
            blend="add" if u[5] < 0.7 else "screen",
        )
        out.append(weather(image, [int(u[6] * 1e9)]))
    return torch.cat(out)


def psnr(body: nn.Module, clean: Tensor, device: str) -> dict[str, float]:
    """Before and after on photographs that training does not see, under the default rain."""
    rainy = Rain()(clean)
    with torch.no_grad():
        out = torch.cat([(x + body(x.to(device) - 0.5).cpu()).clamp(0, 1) for x in rainy.split(1)])
    values = [[-10 * math.log10(float((a - b).square().mean())) for a, b in zip(x, clean, strict=True)] for x in (rainy, out)]
    return {"rainy": sum(values[0]) / len(clean), "restored": sum(values[1]) / len(clean)}


def main() -> None:
    parser = loop.arguments(__doc__.splitlines()[0], steps=2000, batch=8, lr=8e-4)
    parser.add_argument("--ucmerced", type=Path, required=True)
    parser.add_argument("--prior", type=Path, required=True, help="folder that prior.py wrote: corpus and weights")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    data = corpus.cached(options.ucmerced, options.prior / "corpus.safetensors", 500, options.seed)
    body = UNetBody(3, 3, width=32, middle=1).to(memory_format=torch.channels_last)
    start = {name: tensor.float() for name, tensor in read_tensors(options.prior / "weights.safetensors").items()}
    start["stem.weight"] = start["stem.weight"][:, : body.stem.in_channels] * 4
    start["head.weight"], start["head.bias"] = torch.zeros_like(start["head.weight"]), torch.zeros(12)
    body.load_state_dict({name: start[name] for name in body.state_dict()})
    clean = held_out()

    def loss(module: nn.Module, generator: torch.Generator, _: float) -> Tensor:
        images = corpus.patches(data, options.batch, PATCH, generator)
        rainy = rain(images, generator).to(options.device)
        return F.l1_loss(rainy + module(rainy - 0.5), images.to(options.device)) * 20

    loop.fit(body, loss, options, lambda module: psnr(module, clean, options.device))


if __name__ == "__main__":
    main()
