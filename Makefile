# One virtual environment, .venv, installed from the hashed lock. Needs nothing
# but make and a Python with venv; `make demo` and `make test` do the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test bench docs lint format lock bazel-test clean

help:
	@echo "make demo        quantize the example model, compare top-1"
	@echo "make test        all tests; those on real models skip without ../shared"
	@echo "make bench       the whole command beside TFLiteConverter, on ../shared"
	@echo "make docs        the documentation as pages, in site/"
	@echo "make lint        ruff check, ruff format --check, mypy"
	@echo "make format      ruff check --fix and ruff format"
	@echo "make lock        resolve requirements.lock anew (maintainers)"
	@echo "make bazel-test  bazel build //... and the fast tests"
	@echo "make clean       remove what the other targets made, .venv included"

setup: $(VENV)/.ready

# pip never sees an unlocked package: the editable install adds only this
# project, built by the locked setuptools.
$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null \
	  || { echo "$(PYTHON) is no Python 3.10 to 3.13, which TensorFlow needs: run make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) has no venv: install python3-venv"; exit 1; }
	@echo "Setting up $(VENV) (TensorFlow is about 2 GB installed) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@$(BIN)/python -m tools.demo

test: setup
	$(BIN)/python -m pytest -rs -n 2 --dist=loadfile --durations=15

bench: setup
	$(BIN)/python -m benchmarks.performance --json=performance.json

docs: setup
	$(BIN)/mkdocs build --strict

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup
	$(BIN)/uv pip compile --quiet --universal --generate-hashes \
	  --python-version 3.10 --extra test --extra demo --extra dev \
	  --extra docs \
	  pyproject.toml --output-file requirements.lock

bazel-test: setup
	bazel build //...
	bazel test //tests:fast

clean:
	rm -rf $(VENV) build dist demo_out site *.egg-info .pytest_cache .ruff_cache \
	  .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
