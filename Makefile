PYTHON ?= python3
BIN = .venv/bin

.PHONY: run test test-slow bench docs clean

run: .venv/installed
	$(BIN)/python -m pathnas.run experiments/digits.yaml

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .venv/typed .
	MYPYPATH=.venv/typed $(BIN)/mypy -p pathnas
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks --json runs/bench.json

docs: .venv/installed
	$(BIN)/python -m pip install -q -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build site *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/installed: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install -e .
	touch $@

.venv/installed-dev: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@ .venv/installed
