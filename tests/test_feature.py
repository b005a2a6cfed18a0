"""Features: true activations of a real forward, and Gaussians that need no image twice."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toys import photos

import robustrestore as rr
from robustrestore import metrics
from robustrestore.feature import Features, images_of


class Alex(nn.Module):
    """An AlexNet-like net: functional ReLU and pooling between modules, an in-place ReLU after the last convolution."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.head = nn.Linear(6, 2)  # registered first, run last: children in order would be wrong at once
            self.conv1, self.norm = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
            self.conv2, self.act = nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(inplace=True)
        self.norm.running_mean.fill_(0.3)

    def before(self, x: Tensor) -> Tensor:
        return self.conv2(F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.before(x)).mean(dim=(2, 3)))


class Pyramid(nn.Module):
    """A PSPNet-like segmenter: a functional pooling on the way down, a shared ReLU, a decoder, a dict as its answer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.down1, self.down2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 7, 3, padding=1)
            self.act, self.up = nn.ReLU(), nn.Conv2d(7, 2, 1)

    def deep(self, x: Tensor) -> Tensor:
        return self.down2(F.max_pool2d(self.act(self.down1(x)), 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.up(self.act(self.deep(x)))}


MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


def _normalised(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def test_features_of_a_classifier_are_its_true_activations() -> None:
    net, images = Alex(), photos(3)
    net.train()
    found = Features(rr.Adapted(net, MEAN, STD), "model.conv2").statistics(images)
    assert net.training  # looked at in evaluation mode, handed back as it was
    assert not net.conv2._forward_hooks
    net.eval()
    wanted = net.before(_normalised(images)).mean(dim=(2, 3)).double()
    torch.testing.assert_close(found.mean, wanted.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.covariance, torch.cov(wanted.T), atol=1e-6, rtol=0)
    skipped = net.conv2(net.norm(net.conv1(_normalised(images)))).mean(dim=(2, 3))  # children in order, as UAD-RS's hook runs
    assert (skipped.mean(0) - wanted.mean(0)).abs().max() > 0.01
    rectified = F.relu(net.before(_normalised(images))).mean(dim=(2, 3))  # what the in-place ReLU would leave
    assert (rectified.mean(0) - wanted.mean(0)).abs().max() > 0.01


def test_features_of_a_segmenter_with_padding_and_a_dict() -> None:
    net, images = Pyramid().eval(), photos(2, 15, 18)
    padded = F.pad(_normalised(images), (0, 2, 0, 1), mode="replicate")
    model = rr.Adapted(net, MEAN, STD, multiple=4, pick="out")
    torch.testing.assert_close(Features(model, "model.down2")(images), net.deep(padded).mean(dim=(2, 3)), atol=1e-5, rtol=0)


def test_gradients_flow_and_dtype_follows() -> None:
    net, images = Alex().double().eval(), photos(1, 8, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(Features(net, "conv2"), images)
    assert Features(Alex().half().eval(), "head")(photos(1).half()).dtype == torch.float32


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.rnn = nn.Identity(), nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.block(x.flatten(2).transpose(1, 2)))[0].mean(1)


def test_flat_features_are_safe_from_what_follows_in_place() -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5), nn.ReLU(inplace=True))
    before = net[:3](photos())
    assert before.min() < 0
    torch.testing.assert_close(Features(net, "2")(photos()), before)


def test_tokens_are_averaged_and_tuples_refused() -> None:
    images = photos(2)
    torch.testing.assert_close(Features(Tokens(), "block")(images), images.mean(dim=(2, 3)))
    with pytest.raises(TypeError, match="module: expected one that gives a tensor, got tuple"):
        Features(Tokens(), "rnn")(images)


def test_a_module_has_to_run_once() -> None:
    net = Pyramid().eval()
    with pytest.raises(
        ValueError, match=r"module: expected 'act' to run once on 2 images, got features \[\[2, 4\], \[2, 7\]\]"
    ):
        Features(net, "act")(photos())
    net.idle = nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match=r"'idle' to run once on 2 images, got features \[\]"):
        Features(net, "idle")(photos())
    assert not net.act._forward_hooks


def test_layers_are_listed_in_running_order() -> None:
    images = photos()
    assert Features(Alex(), "conv1").layers(images) == {
        "conv1": (2, 5, 16, 20),
        "norm": (2, 5, 16, 20),
        "conv2": (2, 6, 8, 10),
        "act": (2, 6, 8, 10),
        "head": (2, 2),
    }
    assert list(Features(Pyramid(), "up").layers(images)) == ["down1", "down2", "up"]  # the shared ReLU runs twice


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"module: expected a path of named_modules\(\), got 'conv3': is it one of \['conv"):
        Features(Alex(), "conv3")
    with pytest.raises(ValueError, match="dims: expected a whole number >= 1, got 0"):
        Features(Alex(), "conv2", dims=0)
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got function"):
        Features(lambda x: x, "conv2")
    with pytest.raises(ValueError, match="batches: expected at least 2 images, got 1"):
        Features(Alex(), "conv2").statistics(photos(1))
    with pytest.raises(ValueError, match=r"batches: expected values in \[0, 1\]"):
        Features(Alex(), "conv2").statistics(255 * photos())
    net = Alex()
    net.conv2.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="conv2: expected finite features"):
        Features(net, "conv2").statistics(photos())


class Untouchable:
    """Labels that nobody may look at."""

    def __getattribute__(self, name: str) -> None:
        raise AssertionError(f"a label was touched: {name}")


def test_moments_are_the_same_however_images_come() -> None:
    images, features = photos(7), Features(Alex(), "conv2")
    whole = features.statistics(images)
    for batches in (
        images.split(3),
        [images[:1], images[1:]],
        [(part, Untouchable()) for part in images.split(2)],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=4),
    ):
        found = features.statistics(batches)
        assert found.count == whole.count == 7
        torch.testing.assert_close(found.mean, whole.mean, atol=1e-7, rtol=0)
        torch.testing.assert_close(found.covariance, whole.covariance, atol=1e-7, rtol=0)
    assert [len(part) for part in images_of(photos(70, 4, 4))] == [32, 32, 6]  # a long tensor goes in parts


def test_distance_is_that_of_the_feature_rows() -> None:
    features, first, second = Features(Alex().eval(), "conv2"), photos(9), 0.6 * photos(12)
    a, b = features.statistics(first), features.statistics(second)
    with torch.no_grad():
        wanted = metrics.frechet_distance(features(first), features(second))
    assert wanted > 1e-5
    assert a.distance(b) == pytest.approx(wanted, rel=1e-3)
    assert a.distance(b) == pytest.approx(b.distance(a), rel=1e-6)
    assert a.distance(a) == pytest.approx(0, abs=1e-9)


def test_distance_of_known_gaussians() -> None:
    from scipy.linalg import sqrtm

    own = torch.Generator().manual_seed(2)
    m1, m2 = torch.randn(2, 5, generator=own, dtype=torch.float64)
    r1, r2 = torch.randn(2, 5, 5, generator=own, dtype=torch.float64)
    c1, c2 = r1 @ r1.T, r2 @ r2.T
    wanted = (m1 - m2).square().sum() + (c1 + c2).trace() - 2 * torch.from_numpy(sqrtm((c1 @ c2).numpy()).real).trace()
    assert metrics.frechet_of_moments(m1, c1, m2, c2) == pytest.approx(float(wanted), rel=1e-8)
    diagonal = metrics.frechet_of_moments(m1, torch.diag(torch.arange(5.0)), m1, torch.diag(4 * torch.arange(5.0)))
    assert diagonal == pytest.approx(sum((2 * k**0.5 - k**0.5) ** 2 for k in range(5)))


def test_a_key_tells_networks_weights_modules_and_projections_apart() -> None:
    net = Alex().eval()
    one = Features(net, "conv2")
    same, start = Features(Alex().eval(), "conv2"), one.statistics(photos())
    assert same.key == one.key
    others = [Features(net, "conv1"), Features(net, "conv2", dims=3), Features(rr.Adapted(net), "model.conv2")]
    others.append(Features(rr.Adapted(net, mean=MEAN), "model.conv2"))
    assert len({one.key, *(other.key for other in others)}) == 5
    with torch.no_grad():
        net.conv1.bias += 1
    with pytest.raises(ValueError, match="expected features of the same network"):
        start.distance(one.statistics(photos()))


def test_a_projection_is_orthonormal_fixed_and_narrow() -> None:
    net, images = nn.Sequential(nn.Identity()), photos(6)
    rows, few = Features(net, "0")(images).double(), Features(net, "0", dims=2)(images).double()
    directions = torch.linalg.lstsq(rows, few).solution  # six images, three features: one solution
    torch.testing.assert_close(rows @ directions, few, atol=1e-5, rtol=0)
    torch.testing.assert_close(directions.T @ directions, torch.eye(2).double(), atol=1e-3, rtol=0)
    assert torch.equal(few, Features(net, "0", dims=2)(images).double())
    assert torch.equal(Features(net, "0", dims=3)(images).double(), rows)  # as wide as the features: left alone
