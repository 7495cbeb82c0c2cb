# Two commands do everything, each with its own set-up: `make quickstart` and `make test`. Plain pip, nothing else.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install test quickstart docs format clean
SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONSTRAINTS := srch3/constraints.txt

# Set on the command line to choose another interpreter or another number of test processes.
PYTHON ?=
JOBS ?= 2
PYTEST_ARGS ?=

# One thread for each process: several processes with several threads each slow one another down.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 WANDB_MODE=offline

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv with everything that is needed (about 2 minutes; nothing to do when unchanged)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@set -euo pipefail; \
	fail() { echo "make install: $$1" >&2; exit 1; }; \
	command -v git >/dev/null || fail "git is missing: install it (Debian, Ubuntu: apt install git)"; \
	command -v $(firstword $(CXX)) >/dev/null || fail "$(firstword $(CXX)) is missing: hnswlib is published as source and needs a C++ compiler (Debian, Ubuntu: apt install g++; macOS: xcode-select --install)"; \
	usable='import sys; sys.exit(sys.version_info < (3, 11))'; \
	python=; for name in $(or $(PYTHON),python3 python python3.13 python3.12 python3.11 python3.14); do \
	  if "$$name" -c "$$usable" >/dev/null 2>&1; then python=$$name; break; fi; \
	done; \
	[ -n "$$python" ] || fail "Python 3.11 or later is missing: install it, or name it: make install PYTHON=/path/to/python3.11"; \
	"$$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || fail "$$python has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"; \
	"$$python" -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' \
	  || fail "$$python has no Python.h, which hnswlib compiles with: install it (Debian, Ubuntu: apt install python3-dev)"; \
	if ! { $(BIN)/python -c "$$usable" && $(BIN)/python -m pip --version; } >/dev/null 2>&1; then "$$python" -m venv --clear $(VENV); fi; \
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -c $(CONSTRAINTS) -e '.[dev]'; \
	touch $@

test: install ## Check style and types, then run all tests with branch coverage
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(ONE_THREAD) $(OFFLINE) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --cov --cov-report=term $(PYTEST_ARGS)

quickstart: install ## Train and evaluate a small model from nothing, then print its report (about 10 minutes)
	$(BIN)/python -m experiments.quickstart.run

docs: install ## Build the documentation in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: install ## Rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv, caches and build output (runs/ stays)
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find srch3 tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +
