"""A timm classifier behind a defence: wrap it, attack it, measure it.

So that there is something to attack, it first learns which of four photographs a small crop is from: a toy, whose
numbers say nothing of real classifiers. With `pretrained=True` and your own images and labels they do.
"""

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustrestore as rr


def crops(photographs: Tensor, count: int, size: int = 48) -> tuple[Tensor, Tensor]:
    labels = torch.randint(len(photographs), (count,))
    tops, lefts = (torch.randint(side - size + 1, (count,)) for side in photographs.shape[2:])
    places = zip(photographs[labels], tops, lefts, strict=True)
    return torch.stack([photo[:, top : top + size, left : left + size] for photo, top, left in places]), labels


def learn(model: nn.Module, photographs: Tensor, steps: int = 40) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        images, labels = crops(photographs, 12)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.eval()


def main() -> None:
    torch.manual_seed(0)
    photographs = torch.cat(list(rr.assets.photographs().values()))

    network = timm.create_model("resnet10t", pretrained=False, num_classes=len(photographs))
    model = rr.Adapted(network, mean=network.default_cfg["mean"], std=network.default_cfg["std"])
    defended = rr.DefendedPipeline(model, [rr.purifiers.Diffusion.default()])

    learn(model, photographs)
    attack = rr.attacks.PGD(rr.Linf(8 / 255), steps=4)
    task = rr.tasks.Classification()
    print(rr.evaluate(defended, [crops(photographs, 8)], task, [attack], baselines=[rr.purifiers.Blur()]))


if __name__ == "__main__":
    main()
