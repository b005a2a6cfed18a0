"""Train the bundled prior: a denoiser that knows its noise level, sigma 0 to 0.5, RGB, any size.

python training/prior.py --ucmerced PATH --photographs PATH --out runs/prior [--start EARLIER.safetensors]
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

import corpus
import loop
from robustrestore.networks import UNetBody
from robustrestore.weights import load_weights

LOW, HIGH = 0.006, 0.5


def level_map(sigma: Tensor) -> Tensor:
    return (1 + torch.log10(sigma.clamp(min=1e-3))).view(-1, 1, 1, 1)


def noise_estimate(body: nn.Module, noisy: Tensor, sigma: Tensor) -> Tensor:
    scale = (sigma.view(-1, 1, 1, 1) ** 2 + 0.25**2).rsqrt()
    return body((noisy - 0.5) * scale, level_map(sigma))


def psnr(body: nn.Module, clean: Tensor, sigma: float, device: str) -> float:
    generator = torch.Generator().manual_seed(1)
    values = []
    with torch.no_grad():
        for image in clean.split(1):
            noise = torch.randn(image.shape, generator=generator)
            level = torch.full((1,), sigma, device=device)
            noisy = (image + sigma * noise).to(device)
            estimate = (noisy - sigma * noise_estimate(body, noisy, level)).clamp(0, 1).cpu()
            values.append(-10 * math.log10(float((estimate - image).square().mean())))
    return sum(values) / len(values)


def held_out() -> Tensor:
    import skimage.data

    names = ("astronaut", "chelsea", "coffee", "rocket")
    crops = [torch.from_numpy(getattr(skimage.data, name)().copy())[60:252, 100:292] for name in names]
    return torch.stack(crops).permute(0, 3, 1, 2).float() / 255


def main() -> None:
    parser = loop.arguments(__doc__.splitlines()[0], steps=30_000, batch=16, lr=1e-3)
    loop.add_precision(parser)
    parser.add_argument("--ucmerced", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, help="folder of natural photographs, JPEG")
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--canvases", type=int, default=500, help="images made by code")
    parser.add_argument("--patch", type=int, default=64)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    file = options.out / "corpus.safetensors"
    data = corpus.cached(options.ucmerced, file, options.canvases, options.seed, options.photographs)
    body = UNetBody(3, 3, width=32, maps=1).to(memory_format=torch.channels_last)
    if options.start:
        load_weights(body, options.start)
    clean = held_out()

    def loss(module: nn.Module, generator: torch.Generator, _: float) -> Tensor:
        images = corpus.patches(data, options.batch, options.patch, generator)
        u = torch.rand(options.batch, generator=generator)
        sigma = torch.exp(math.log(LOW) + u * math.log(HIGH / LOW)).to(options.device)
        noise = torch.randn(images.shape, generator=generator).to(options.device)
        noisy = images.to(options.device) + sigma.view(-1, 1, 1, 1) * noise
        with loop.autocast(options):
            estimate = noise_estimate(module, noisy, sigma).float()
        error = (estimate - noise).square().mean(dim=(1, 2, 3))
        return (error * sigma).mean() * 50

    def validate(module: nn.Module) -> dict[str, float]:
        return {f"psnr_{s}": round(psnr(module, clean, s / 255, options.device), 3) for s in (15, 25, 50)}

    loop.fit(body, loss, options, validate)


if __name__ == "__main__":
    main()
