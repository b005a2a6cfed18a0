"""Fixtures that several tests share."""

import pytest

from robustrestore import registry

collect_ignore = ["plugin_package"]  # a package of its own; test_plugin_package.py installs it


@pytest.fixture
def names_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that the test registers are free again after it."""
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
