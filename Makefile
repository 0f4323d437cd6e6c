PYTHON ?= python3
BIN = .venv/bin
TYPED = pathnas pathnas.envs pathnas.controllers

.PHONY: run test test-slow bench clean

run: .venv/installed
	$(BIN)/python -m pathnas.run experiments/digits.yaml

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy pathnas envs controllers
	$(BIN)/python -m pytest

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.rollout

clean:
	rm -rf .venv build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/installed: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install -e .
	touch $@

.venv/installed-dev: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@ .venv/installed
