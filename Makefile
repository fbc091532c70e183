# Two commands on a fresh machine: `make report` and `make test`. Both make .venv first and repeat at no cost.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: report test test-all check coverage robustness real docs benchmarks readme clean

report: $(VENV)/.installed
	$(BIN)/mi-superposition report --out site

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2

# What takes minutes too: the whole report in the browser, all notebooks, clusters, kills. Half an hour.
test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m "slow or not slow"

# The share of the package's lines and branches that the tests run in their own processes; what numba compiles runs unseen.
coverage: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered

# Every change that a command makes to a disk, every command killed twenty times and fed fifty malformed requests, every kind of disk.
robustness: $(VENV)/.installed-dev
	ROBUSTNESS=full $(BIN)/python -m pytest -n 2 tests/robustness -m "slow or not slow"

# On two real pretrained models: REAL_MODELS names a folder with `smollm2-135m` and `minilm`, in Hugging Face layout. Fetches nothing.
real: $(VENV)/.installed-dev
	@test -d "$(REAL_MODELS)/smollm2-135m" -a -d "$(REAL_MODELS)/minilm" || \
	  { echo "REAL_MODELS = '$(REAL_MODELS)': give a folder with 'smollm2-135m' and 'minilm'" >&2; exit 2; }
	$(BIN)/python -m pytest tests/real -m slow

# Warnings are errors.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build

# The README's picture and tables: builds the report first.
readme: $(VENV)/.installed-dev
	$(BIN)/python scripts/readme.py

# Ten minutes on two cores that do nothing else; rewrites the table in benchmarks/README.md.
benchmarks: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/run.py

# What pre-commit and the test run check too.
check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) site docs/_build docs/api docs/commands.md

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	touch $@ $(VENV)/.installed
