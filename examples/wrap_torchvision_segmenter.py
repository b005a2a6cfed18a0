"""A torchvision segmenter behind a defence. Its outputs are a dictionary: `Adapted` picks one.

So that there is something to attack, it first learns to tell dark, middling and bright regions of four photographs: a
toy, whose numbers say nothing of real segmenters. With trained weights and your own labels they do.
"""

import torch
from torch import Tensor, nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import robustrestore as rr

TASK = rr.tasks.Segmentation(ignore=255)


def learn(model: nn.Module, images: Tensor, labels: Tensor, steps: int = 25) -> None:
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.2  # so few steps need quick statistics
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        TASK.loss(model(images), labels).mean().backward()
        optimizer.step()
    model.eval()


def main() -> None:
    torch.manual_seed(0)
    images = torch.cat([photograph[..., :48, :64] for photograph in rr.assets.photographs().values()])
    labels = (rr.purifiers.Blur(2.0)(images).mean(dim=1) * 3).long().clamp(max=2)  # integers [N, H, W]
    labels[:, :4] = 255  # pixels without a label count nowhere

    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    model = rr.Adapted(network, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], pick="out")
    defended = rr.DefendedPipeline(model, [rr.purifiers.Diffusion.default()])

    learn(model, images, labels)
    attack = rr.attacks.PGD(rr.Linf(4 / 255), steps=3)
    print(rr.evaluate(defended, [(images, labels)], TASK, [attack], baselines=[rr.purifiers.Blur()]))


if __name__ == "__main__":
    main()
