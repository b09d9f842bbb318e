# `make` lists what can be made. Everything runs in .venv, made from hash-pinned requirements.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DOCS_READY := .venv/.docs-ready
# What `make bench` runs: benchmarks that need nothing but themselves. Each of the others says with --help what it needs.
BENCH := store train_step train_retrieval
# Caches that a caller's settings may have pointed elsewhere do not change what is installed.
.DEFAULT_GOAL := help
.PHONY: help setup demo docs milvus test test-slow lint bench requirements clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install rgunit with pinned packages

$(READY): requirements/dev.txt requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rgunit needs Python 3.11 or newer: $(PYTHON) is $$($(PYTHON) -V 2>&1). Pass PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/dev.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## the whole job on built-in drawn faces: train, index, translate, report (6 minutes on 2 cores)
	$(BIN)/rgunit demo

milvus: .milvus/.ready ## Milvus Lite in .milvus, for the tests of vectors on Milvus (else they skip)

.milvus/.ready: requirements/milvus.txt | $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .milvus
	$(BIN)/uv pip install --quiet --python .milvus/bin/python --require-hashes -r requirements/milvus.txt
	@touch $@

test: $(READY) ## the test suite (slow tests left out), two files at a time: about 4 minutes alone on 2 cores
	@echo "the tests of cli, index_store, retrieval and translation, two files at a time; slow ones are in make test-slow"
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(READY) $(DOCS_READY) ## every test, also the slow ones
	$(BIN)/python -m pytest -m 'slow or not slow'

lint: $(READY) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## timings of this machine: store, train_step, train_retrieval (the rest of benchmarks/ asks for a workspace)
	@for name in $(BENCH); do echo "== benchmarks/$$name.py"; $(BIN)/python benchmarks/$$name.py || exit 1; done

docs: $(DOCS_READY) ## the documentation as a site, in site/ (open site/index.html)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html"

$(DOCS_READY): $(READY) requirements/docs.txt
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/docs.txt
	@touch $@

requirements: $(READY) ## pin again what pyproject.toml asks for
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
	  --group dev --extra serve --extra text pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
	  --extra serve --extra text pyproject.toml -o requirements/run.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
	  --group search -o requirements/search.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
	  --group docs -c requirements/dev.txt -o requirements/docs.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
	  --group milvus -o requirements/milvus.txt
	echo uv | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
	  - -o requirements/uv.txt

clean: ## remove .venv, caches and the demo's workspace
	rm -rf .venv .milvus site .mypy_cache .pytest_cache .ruff_cache .hypothesis workspace/demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
