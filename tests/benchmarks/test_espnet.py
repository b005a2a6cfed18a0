"""The rebuilt ESPNet: shapes, class count, refused sizes and a loading round trip, on random weights."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch


def script(name: str) -> ModuleType:
    """The module benchmarks/<name>.py, by its path: benchmarks are scripts, not an importable package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


espnet = script("espnet")


@pytest.mark.parametrize("classes", [5, 12, 20])
def test_logits_have_the_size_of_the_images_and_a_channel_per_class(classes: int) -> None:
    network = espnet.ESPNet(classes=classes, p=1, q=1).eval()
    with torch.no_grad():
        logits = network(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, classes, 64, 96)
    assert logits.isfinite().all()


def test_p_and_q_count_the_blocks() -> None:
    network = espnet.ESPNet()
    assert (len(network.encoder.level2), len(network.encoder.level3)) == (2, 8)


def test_a_side_that_is_no_multiple_of_eight_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8, got 60x96"):
        espnet.ESPNet(p=1, q=1)(torch.randn(1, 3, 60, 96))


def test_too_few_classes_for_five_branches_are_refused() -> None:
    with pytest.raises(ValueError, match="5 classes or more, got 4"):
        espnet.ESPNet(classes=4)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_load_takes_a_state_dict_with_or_without_prefix(tmp_path: Path, prefix: str) -> None:
    network, images = espnet.ESPNet().eval(), torch.randn(1, 3, 64, 96)
    torch.save({prefix + name: value for name, value in network.state_dict().items()}, tmp_path / "weights.pth")
    loaded = espnet.load(tmp_path / "weights.pth")
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))
