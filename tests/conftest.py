"""Fixtures that several tests share."""

import importlib.util
import sys

import pytest
import torch
from toys_peers import fake_foolbox, fake_torchattacks

from robustrestore import registry

collect_ignore = ["plugin_package"]  # a package of its own; test_plugin_package.py installs it


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Every test draws the same each time, alone or after others."""
    torch.manual_seed(0)


@pytest.fixture
def names_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that the test registers are free again after it."""
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the attack libraries that are not installed."""
    for name, make in (("torchattacks", fake_torchattacks), ("foolbox", fake_foolbox)):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            monkeypatch.setitem(sys.modules, name, make())
