# Everything sets itself up in .venv, from nothing but Python 3.11 or newer, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
USABLE := $(VENV)/.usable
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt
SEEDS ?= 300
.DEFAULT_GOAL := help
# Modules are compiled when they are first imported, most of what is installed never: they must be kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test check cover simulate browser screenshots lint bench house clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: $(READY)  ## make .venv with everything in it, for development too

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	sys.exit(0 if v >= (3, 11) else "batcher needs Python 3.11 or newer, and %s is %d.%d: make PYTHON=python3.11 ..." % (sys.executable, v[0], v[1]))'
	@echo "making $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)

# What was installed shows as it comes; whether that went well is asked of the program itself.
$(USABLE): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing what batcher needs"
	@$(PIP) -e . | grep --line-buffered -o '^Collecting [^ (]*' || true
	@$(BIN)/batcher --version >/dev/null
	@touch $@

$(READY): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing what the tests need too (a minute or two)"
	@$(PIP) -e '.[dev]' | grep --line-buffered -o '^Collecting [^ (]*' || true
	@$(BIN)/python -c 'import pytest, mypy'
	@touch $(USABLE) $@

demo: $(USABLE)  ## run a real batch against the embedded sandbox
	@$(BIN)/batcher run manifests/quickstart.yaml --sandbox --sandbox-speed 3 -o output/demo
	@$(BIN)/batcher report output/demo
	@echo
	@echo "The money was the sandbox's. Look at it:   file://$(CURDIR)/output/demo/report.html"
	@echo "Judge it in the browser:                  source $(BIN)/activate; batcher view output/demo"
	@echo "Type it again: nothing is bought twice.   make demo"
	@echo "See it interrupted and resumed:           rm -r output/demo; make demo, Ctrl-C, make demo"
	@echo "Use it on a file of your own:             source $(BIN)/activate; batcher init"

test: $(READY)  ## run all tests
	@$(BIN)/python -m pytest -q -n auto --dist worksteal

check: $(READY)  ## lint, types, and the unit tests of what differs from main: in seconds
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal $$($(BIN)/python -m tests.changed)

cover: $(READY)  ## all tests again, slower, and which lines they reach
	@$(BIN)/python -m pytest -q -n auto --dist worksteal --cov --cov-report=term --cov-fail-under=95

simulate: $(READY)  ## many simulated worlds: make simulate SEEDS=10000
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS)

browser:  ## install Chromium, which the tests of the report drive (Debian, as root)
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }

screenshots: $(READY)  ## take the pictures of the report in docs/images (needs Chromium)
	@$(BIN)/python docs/screenshots.py

lint: $(READY)  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY)  ## measure, and print ratios
	@for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

house: $(READY)  ## measure how the code is laid out; brings the table in docs/design.md up to date
	@$(BIN)/python -m tests.house

clean:  ## remove .venv and caches, not outputs
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
