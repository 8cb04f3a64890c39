# `make repro` and `make test` need nothing but Python 3.11 and a network for the first install.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
# The trainer sets its own thread count; two stages at once share the cores.
unexport OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS

# What `make repro` settles; `make repro-all` settles every question there is.
EXPERIMENTS ?= two_stage_vs_one_stage causal_vs_bidirectional

# An experiment that needs most of the pipeline: its students start from those of another. CI adds one with images.
SMOKE ?= long_tuning

.PHONY: help repro repro-all test test-slow smoke smoke-distributed lint lock
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 20
	@echo "The pipeline's own commands: .venv/bin/python -m harness --help"

.venv/.ok: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "Python 3.11 is needed, found: $$($(PYTHON) --version 2>&1). Give one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "Installing into .venv from requirements.lock (some minutes, once)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

repro: .venv/.ok  ## the pipeline up to the main experiments (what is stale of it), the verdicts and the report
	@python -m harness repro --jobs $(JOBS) --experiments $(EXPERIMENTS)

repro-all: .venv/.ok  ## the same with every experiment
	@python -m harness repro --jobs $(JOBS)

test: .venv/.ok  ## the test suite
	@OMP_NUM_THREADS=1 python -m pytest

test-slow: .venv/.ok  ## the tests that take minutes
	@OMP_NUM_THREADS=1 python -m pytest -m slow --timeout=1800

smoke: .venv/.ok  ## the pipeline up to an experiment on long video, at toy size, in a copy under .smoke
	@scripts/smoke.sh $(JOBS) $(SMOKE)

smoke-distributed: .venv/.ok  ## every recipe in two processes; quicker after `make smoke`
	@scripts/smoke_distributed.sh

lint: .venv/.ok  ## ruff and pyright
	@ruff check harness tests benchmarks
	@ruff format --check harness tests benchmarks
	@pyright

lock:  ## resolve pyproject.toml anew into requirements.lock (needs uv)
	uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 -o requirements.lock
	@sed -i '1i # Made by `make lock` from pyproject.toml: every package with its version and hashes, no addresses.' requirements.lock
