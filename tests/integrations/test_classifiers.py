"""Classifiers of timm and torchvision by name: the same outputs as by hand, weights of a file, errors that help."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robustrestore import spec

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
HALF = torch.tensor(0.5)
timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision").models


def test_a_file_of_weights_makes_the_model_that_they_are_of(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    made = {
        "timm:test_resnet": (timm.create_model("test_resnet").eval(), HALF, HALF),  # which is normalised so
        "torchvision:squeezenet1_1": (models.get_model("squeezenet1_1").eval(), MEAN, STD),
    }
    for text, (network, mean, std) in made.items():
        file = tmp_path / "weights.safetensors"
        save_file(network.state_dict(), file)
        model = spec.model(f"{text},{file}")
        with torch.no_grad():
            assert torch.allclose(model(images), network((images - mean) / std), atol=1e-5)
        assert not any(part.training for part in model.modules())


def test_unknown_names_and_missing_weights_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("timm:resnet_of_nobody", "torchvision:resnet_of_nobody"):
        with pytest.raises(LookupError, match="resnet_of_nobody: expected a"):
            spec.model(text)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(models, "get_model", offline)
    for text in ("timm:test_resnet", "torchvision:squeezenet1_1"):
        with pytest.raises(ValueError, match=f"give them as {text},FILE .no route"):
            spec.model(text)
