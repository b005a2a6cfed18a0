import pytest

from robustrestore import terminal


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are not cut, whatever the terminal that the tests run in."""
    for stream in (terminal.console, terminal.errors):
        monkeypatch.setattr(stream, "width", 200)
