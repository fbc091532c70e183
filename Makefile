# Two commands on a fresh machine: `make report` and `make test`. Both make .venv first and repeat at no cost.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: report test check benchmarks clean

report: $(VENV)/.installed
	$(BIN)/mi-superposition report --out site

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

# Ten minutes on two cores that do nothing else; rewrites the table in benchmarks/README.md.
benchmarks: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/run.py

# What pre-commit and the test run check too.
check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) site

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed
