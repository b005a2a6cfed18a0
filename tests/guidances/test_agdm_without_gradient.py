"""AGDM by a network that has no gradient to give says so, in place of guiding by nothing."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from toys import photos
from toys_diffusion import Convolved
from toys_guidance import SmoothNet

from robustrestore import guidances
from robustrestore.guidances import AGDM
from robustrestore.purifiers import Diffusion


class Parted(nn.Module):
    """Features and scores, of which either may be detached."""

    def __init__(self, features: bool = True, scores: bool = True) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.features, self.scores = features, scores

    def forward(self, images: Tensor) -> Tensor:
        found = self.body(images if self.features else images.detach())
        rows = torch.tanh(found).mean((2, 3))
        if self.scores and not self.features:
            rows = rows + images.mean((2, 3)).repeat(1, 2)[:, :4]
        return self.head(rows if self.scores else rows.detach())


class Rounded(nn.Module):
    """Differentiable by name, with the derivative 0 everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SmoothNet()

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images * 255).round() / 255)


def _guided(guidance: guidances.AGDM, whole: bool = False) -> Tensor:
    held = guidances.OnEstimate(guidance) if whole else guidance
    return Diffusion(Convolved(), 0.1, 2, guidance=held)(photos())


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("net", "settings", "message"),
    [
        ({"features": False}, {"layer": "body"}, "network: expected features with a gradient in the image"),
        ({"scores": False}, {"layer": "body"}, "network: expected scores with a gradient in the image"),
        ({"features": False, "scores": False}, {"class_weight": 0.0, "layer": "body"}, "network: expected features with"),
        ({"scores": False}, {"feature_weight": 0.0}, "network: expected scores with a gradient in the image"),
    ],
    ids=str,
)
def test_a_detached_term_is_named(net: dict[str, bool], settings: dict[str, object], message: str, whole: bool) -> None:
    with pytest.raises(ValueError, match=message):
        _guided(AGDM(Parted(**net), **settings), whole)


def test_a_term_without_weight_may_be_detached() -> None:
    for net, settings in (({"scores": False}, {"class_weight": 0.0}), ({"features": False}, {"feature_weight": 0.0})):
        assert torch.isfinite(_guided(AGDM(Parted(**net), layer="body", **settings))).all()


@pytest.mark.parametrize("whole", [False, True])
def test_a_gradient_of_zeros_is_told(whole: bool) -> None:
    with pytest.warns(UserWarning, match="gradient is 0 in every pixel of 2 images: they are guided by nothing"):
        found = _guided(AGDM(Rounded(), strength=100.0), whole)
    assert torch.equal(found, Diffusion(Convolved(), 0.1, 2)(photos()))


@pytest.mark.parametrize("whole", [False, True])
def test_a_gradient_is_not_talked_of(whole: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _guided(AGDM(SmoothNet(), strength=100.0), whole)
        leaf = photos().requires_grad_()
        Diffusion(Convolved(), 0.1, 2, guidance=AGDM(SmoothNet()))(leaf).sum().backward()
        straight = AGDM(nn.Sequential(nn.Flatten(), nn.Linear(960, 3)), layer="", class_weight=0.0)
        leaf.grad = None
        Diffusion(Convolved(), 0.1, 2, guidance=straight, checkpointed=False)(leaf).sum().backward()  # curved by nothing
    assert not torch.equal(found, Diffusion(Convolved(), 0.1, 2)(photos()))


def test_a_network_made_under_inference_mode_guides_as_it_would() -> None:
    wanted = _guided(AGDM(SmoothNet(), strength=100.0)).detach()
    with torch.inference_mode():
        torch.testing.assert_close(_guided(AGDM(SmoothNet(), strength=100.0)), wanted)


def test_two_terms_of_no_weight_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of them above 0, got 0 and 0"):
        AGDM(nn.Sequential(nn.Flatten(), nn.Linear(960, 3)), feature_weight=0, class_weight=0)
