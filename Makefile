# `make` alone lists the targets. Every target sets up what it needs in $(VENV) first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Where the tests find MNIST, CIFAR-10 and Tiny ImageNet; without the folder the tests that need it are skipped, and say so.
export SANACT_DATA ?= $(abspath ../shared/data)

.DEFAULT_GOAL := help
.PHONY: help demo test slow check bench docs dist clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/core ## the point in a minute: three sanitizers under replayed examples, and under an attacker who knows
	$(BIN)/sanact demo

test: $(VENV)/test ## the test suite, a process a core
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal --durations 40

slow: $(VENV)/test $(VENV)/release ## the tests that take minutes
	$(BIN)/pytest -m slow

check: $(VENV)/test ## ruff, mypy strict, import-linter
	$(BIN)/ruff check --output-format concise
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/bench ## time the attacks and sanitizers beside other libraries; writes docs/results/benchmarks
	$(BIN)/python -m benchmarks

docs: $(VENV)/docs ## the documentation, in build/docs; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

dist: $(VENV)/release ## wheel (manylinux, if on Linux) and sdist in dist/, checked by twine
	rm -rf dist
	$(BIN)/python -m build
	for wheel in dist/*-linux_*.whl; do test ! -e $$wheel || { \
	  PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist $$wheel && rm $$wheel; }; done
	$(BIN)/twine check --strict dist/*

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache src/sanact/kernels/c/kernels.so

$(VENV)/core: pyproject.toml hatch_build.py $(wildcard src/sanact/kernels/c/*.[ch])
	@echo 'Setting up $(VENV): PyTorch and other packages, once; a few minutes, without a word.'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install --editable .
	touch $@

# torchattacks pins versions of requests and tqdm that nothing here can meet, and adv-lib wants visdom, which does not build any
# more; nothing here uses them: hence --no-deps.
$(VENV)/test: $(VENV)/core
	$(PIP) install --editable '.[timm,onnx,app,ray,search]' --group test --group check
	$(PIP) install --no-deps torchattacks
	touch $@

$(VENV)/bench: $(VENV)/test
	$(PIP) install --group bench
	$(PIP) install --no-deps adv-lib
	touch $@

$(VENV)/docs: $(VENV)/core
	$(PIP) install --editable '.[app]' --group docs
	touch $@

$(VENV)/release: $(VENV)/core
	$(PIP) install --group release
	touch $@
