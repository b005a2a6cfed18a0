# Two commands: `make demo` and `make test`. Both set up what they need, in .venv, and can be run again at any time.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: help setup demo test lint docs build clean

help:
	@echo "make demo   the main job on real images (runs/demo)"
	@echo "make test   the fast test suite with coverage"
	@echo "make lint   ruff and mypy"
	@echo "make docs   the documentation, strictly"
	@echo "make build  a wheel and a source archive"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "expected Python 3.11 to 3.13 on the path: install it, or say make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[all]"
	@touch $(STAMP)

demo: setup
	$(BIN)/robustrestore demo $(DEMO)

test: setup
	$(BIN)/python -m pytest -q --cov --cov-report=term:skip-covered --cov-fail-under=90

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/mkdocs build --strict

build: setup
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) dist build site .coverage .pytest_cache .mypy_cache .ruff_cache
