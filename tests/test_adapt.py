"""Adapted: channels and normalisation by hand, every kind of output, sizes, and models people really have."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toys import Gain, photos

import robustrestore as rr

MEAN, STD = [0.4, 0.5, 0.6], [0.1, 0.2, 0.3]


class _Keep(nn.Module):
    """Returns what it is shown and keeps it."""

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return images


class _Outputs(nn.Module):
    """Returns what `make` makes of the images."""

    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def forward(self, images: Tensor):
        return self.make(images)


@dataclass
class _Fields:
    logits: Tensor
    hidden: Tensor
    count: int = 3


def test_channels_then_mean_and_std_in_the_models_order() -> None:
    images, model = photos(), _Keep()
    out = rr.Adapted(model, mean=MEAN, std=STD, channels=[2, 1, 0])(images)
    for place, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        torch.testing.assert_close(out[:, place], (images[:, 2 - place] - mean) / std)
    assert torch.equal(model.seen, out)


def test_without_settings_the_images_pass_as_they_are() -> None:
    images, model = photos(), _Keep()
    assert torch.equal(rr.Adapted(model)(images), images)
    torch.testing.assert_close(rr.Adapted(model, std=[0.5] * 3)(images), 2 * images)
    torch.testing.assert_close(rr.Adapted(model, mean=[0.5] * 3)(images), images - 0.5)
    assert torch.equal(rr.Adapted(model, channels=[1])(images), images[:, 1:2])


def test_gradients_are_those_of_the_normalisation() -> None:
    leaf = photos().requires_grad_()
    (gradient,) = torch.autograd.grad(rr.Adapted(Gain(3.0), mean=MEAN, std=STD)(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, (3 / torch.tensor(STD)).view(1, 3, 1, 1).expand_as(leaf))


Pair = namedtuple("Pair", ["logits", "features"])
PICKED = [
    (lambda x: x, None),
    (lambda x: {"out": x}, None),
    (lambda x: {"out": x, "aux": 0 * x}, "out"),
    (lambda x: OrderedDict(aux=0 * x, out=x), "out"),
    (lambda x: (x,), None),
    (lambda x: [0 * x, x], 1),
    (lambda x: (0 * x, x), -1),
    (lambda x: Pair(x, 0 * x), 0),
    (lambda x: Pair(x, 0 * x), "logits"),
    (lambda x: _Fields(x, 0 * x), "logits"),
    (lambda x: SimpleNamespace(logits=x, loss=None), "logits"),
]


@pytest.mark.parametrize("case", range(len(PICKED)))
def test_one_output_is_picked(case: int) -> None:
    make, pick = PICKED[case]
    images = photos()
    assert torch.equal(rr.Adapted(_Outputs(make), pick=pick)(images), images)


@pytest.mark.parametrize(
    ("make", "pick", "message"),
    [
        (lambda x: {"out": x, "aux": x}, None, r"got dict with \['out', 'aux'\]: choose one"),
        (lambda x: {"out": x}, "logits", r"got dict with \['out'\], where 'logits' is no tensor"),
        (lambda x: {"out": [x]}, "out", r"got dict with \['out'\], where 'out' is no tensor"),
        (lambda x: (x, x), None, r"got tuple with \[0, 1\]: choose one with Adapted\(\.\.\., pick=\.\.\.\)"),
        (lambda x: [x, x], 2, r"got list with \[0, 1\], where 2 is no tensor"),
        (lambda x: Pair(x, x), "scores", r"got Pair with \['logits', 'features'\], where 'scores' is no tensor"),
        (lambda x: _Fields(x, x), None, r"got _Fields with \['logits', 'hidden'\]"),
        (lambda x: _Fields(x, x), "count", r"got _Fields with \['logits', 'hidden'\], where 'count' is no tensor"),
        (lambda x: x, "out", r"got Tensor with nothing to pick, where 'out' is no tensor"),
        (lambda x: None, None, "got NoneType with nothing to pick"),
        (lambda x: {}, None, "got dict with nothing to pick"),
    ],
    ids=lambda v: None if callable(v) else str(v),
)
def test_an_error_lists_what_there_is(make, pick: str | int | None, message: str) -> None:
    with pytest.raises(ValueError, match=f"outputs: expected one tensor, {message}"):
        rr.Adapted(_Outputs(make), pick=pick)(photos())


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_smaller_outputs_are_brought_to_the_images_size(mode: str) -> None:
    images, model = photos(2, 16, 20), _Outputs(lambda x: F.avg_pool2d(x, 4))
    options = {} if mode == "nearest" else {"align_corners": False}
    expected = F.interpolate(F.avg_pool2d(images, 4), (16, 20), mode=mode, **options)
    torch.testing.assert_close(rr.Adapted(model, upsample=mode)(images), expected)
    torch.testing.assert_close(rr.Adapted(model, upsample=None)(images), F.avg_pool2d(images, 4))


def test_a_multiple_pads_by_replication_and_crops_the_outputs() -> None:
    images, model = photos(2, 17, 23), _Keep()
    assert torch.equal(rr.Adapted(model, multiple=8)(images), images)
    assert torch.equal(model.seen, F.pad(images, (0, 1, 0, 7), mode="replicate"))
    pooled = rr.Adapted(_Outputs(lambda x: F.avg_pool2d(x, 8)), multiple=8)(images)
    whole = F.interpolate(F.avg_pool2d(model.seen, 8), (24, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(pooled, whole[..., :17, :23])  # aligned with the padded image, not stretched to the cropped


def test_outputs_that_are_no_maps_pass() -> None:
    images = photos(2, 17, 23)
    assert rr.Adapted(_Outputs(lambda x: x.mean((2, 3))), multiple=8)(images).shape == (2, 3)


def test_wrong_settings_and_images() -> None:
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got function"):
        rr.Adapted(lambda x: x)
    for wrong in ([0.1, 0.0, 0.1], [0.1, -1.0, 0.1], [float("nan")] * 3):
        with pytest.raises(ValueError, match="std: expected values > 0"):
            rr.Adapted(_Keep(), std=wrong)
    for what in ("mean", "std"):
        with pytest.raises(ValueError, match=f"{what}: expected one value for each of 3 channels, got 1"):
            rr.Adapted(_Keep(), **{what: [0.5]})(photos())
    with pytest.raises(ValueError, match=r"images: expected shape \[N, C, H, W\]"):
        rr.Adapted(_Keep())(photos()[0])
    with pytest.raises(TypeError, match="images: expected a floating dtype"):
        rr.Adapted(_Keep())((photos() * 255).byte())


def test_a_segmenter_of_segmentation_models_pytorch() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("resnet18", encoder_weights=None, classes=5).eval()
    wrapped = rr.Adapted(model, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], multiple=32)
    images = photos(1, 33, 50)
    out = wrapped(images)
    assert out.shape == (1, 5, 33, 50)
    padded = F.pad(images, (0, 14, 0, 31), mode="replicate")
    normal = (padded - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(out, model(normal)[..., :33, :50], atol=1e-5, rtol=1e-4)


def test_a_classifier_of_timm() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", pretrained=False, num_classes=7).eval()
    wrapped = rr.Adapted(model, mean=model.default_cfg["mean"], std=model.default_cfg["std"])
    leaf = photos(2, 32, 40).requires_grad_()
    out = wrapped(leaf)
    assert out.shape == (2, 7)
    normal = timm.data.transforms_factory.transforms.Normalize(model.default_cfg["mean"], model.default_cfg["std"])
    torch.testing.assert_close(out, model(normal(leaf)))
    (gradient,) = torch.autograd.grad(out[:, 0].sum(), leaf)
    assert gradient.abs().max() > 0


def test_a_segmenter_of_torchvision_in_three_lines() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    segmenter = rr.Adapted(model, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], pick="out")
    defended = rr.DefendedPipeline(segmenter, [rr.purifiers.Median()])
    images = photos(2, 50, 65)
    out = defended(images)
    assert out.shape == (2, 4, 50, 65)
    normal = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(defended.predict(images), model(normal(images))["out"])
    assert torch.equal(rr.Adapted(model)(images), model(images)["out"])  # the only entry needs no name
