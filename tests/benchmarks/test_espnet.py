"""The rebuilt ESPNet: shapes, class count, refused sizes and a loading round trip, on random weights."""

from pathlib import Path

import pytest
import torch

from benchmarks.espnet import ESPNet, load


@pytest.mark.parametrize("classes", [5, 12, 20])
def test_logits_have_the_size_of_the_images_and_a_channel_per_class(classes: int) -> None:
    network = ESPNet(classes=classes, p=1, q=1).eval()
    with torch.no_grad():
        logits = network(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, classes, 64, 96)
    assert logits.isfinite().all()


def test_p_and_q_count_the_blocks() -> None:
    network = ESPNet()
    assert (len(network.encoder.level2), len(network.encoder.level3)) == (2, 8)


def test_a_side_that_is_no_multiple_of_eight_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8, got 60x96"):
        ESPNet(p=1, q=1)(torch.randn(1, 3, 60, 96))


def test_too_few_classes_for_five_branches_are_refused() -> None:
    with pytest.raises(ValueError, match="5 classes or more, got 4"):
        ESPNet(classes=4)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_load_takes_a_state_dict_with_or_without_prefix(tmp_path: Path, prefix: str) -> None:
    network, images = ESPNet().eval(), torch.randn(1, 3, 64, 96)
    torch.save({prefix + name: value for name, value in network.state_dict().items()}, tmp_path / "weights.pth")
    loaded = load(tmp_path / "weights.pth")
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))
