PYTHON ?= python3
BIN = .venv/bin

.PHONY: run test test-slow test-minimum bench docs clean

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

# The oldest releases that setup.cfg claims. Their warnings about each other are not ours.
MINIMUM = .venv-min
MINIMUM_TESTS = $(addprefix tests/test_,$(addsuffix .py,tree ops cell transforms growth layers \
	networks config yaml_reader database board drawing draw path_level reinforce training \
	datasets data export receipts decisions tree_lstm learners train_settings))

test-minimum:
	$(PYTHON) -m venv --clear $(MINIMUM)
	$(PYTHON) -m tests.minimum > $(MINIMUM)/constraints.txt
	$(MINIMUM)/bin/python -m pip install -c $(MINIMUM)/constraints.txt -e '.[dev]'
	$(MINIMUM)/bin/python -m pathnas.run experiments/smoke.yaml runs=$(MINIMUM)/runs
	$(MINIMUM)/bin/python -m pytest -o filterwarnings=default $(MINIMUM_TESTS)

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks --json runs/bench.json

docs: .venv/installed
	$(BIN)/python -m pip install -q -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv $(MINIMUM) build site *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/installed: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install -e .
	touch $@

.venv/installed-dev: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@ .venv/installed
