# Everything a newcomer or a machine types. Environments are set up when first needed and then
# cached; nothing is installed outside this folder, except the broker package of `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

DEV := packaging/dev
VENV := .venv
PYTHON := $(VENV)/bin/python
HOST_EXTRAS := convert,optimum,litert,fleet,demo,dev
DEVICE_EXTRAS := onnxruntime,litert,images,fleet,test
TORCH := torch==2.13.0
TARGETS := vela qnn openvino

# What is judged by ruff and mypy: whatever of this is in the checkout.
SOURCES := $(wildcard edge_runtime converters examples benchmarks tests)

# The builder of packages, whose modules stand by themselves: a folder that is called as a project on
# the index must not become a package.
DEB := packaging/deb

# Options of yours: make demo DEMO_ARGS=--quick, make test PYTEST_ARGS="-k bundle" SYSTEM=0,
# PIP_ARGS="--index-url …" for a package index of your own.
DEMO_ARGS ?=
BENCH_ARGS ?=
RELIABILITY_ARGS ?=
BOARD_ARGS ?=
DEB_ARGS ?=
PYTEST_ARGS ?=
SYSTEM ?= 1
export PYTEST_ARGS PIP_ARGS SYSTEM

# No vendor's telemetry and no download behind your back.
export ORT_DISABLE_TELEMETRY := 1
export HF_HUB_OFFLINE := 1

.NOTPARALLEL:
.PHONY: help demo test test-system check style format bench reliability board-powercut board deb deb-locks setup setup-devices \
    setup-tensorflow setup-targets setup-broker docs setup-docs clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: setup ## the product's main job on a real model and real text
	@$(PYTHON) -m examples.demo $(DEMO_ARGS)

test: setup style setup-devices setup-tensorflow setup-targets setup-broker ## set up, style, and every test on every Python found
	@$(DEV)/test.sh

test-system: setup setup-broker deb ## systemd in containers, a whole emulated ARM64 board: an hour or more
	@EDGE_SYSTEM=1 EDGE_ALL_HERE=1 $(PYTHON) -m pytest -q -p no:cacheprovider $(PYTEST_ARGS) \
	    -m "machine or full" tests/system tests/packaging

check: style ## the quick one: style, then the unit tests
	@$(PYTHON) -m pytest -q -p no:cacheprovider $(PYTEST_ARGS) tests/unit

style: setup ## style, types, layers: all of them, then fail if one did
	@failed=; \
	judge() { echo "== $$*"; "$(VENV)/bin/$$@" || failed=1; }; \
	judge ruff check --quiet $(SOURCES) $(DEB); \
	judge ruff format --quiet --check $(SOURCES) $(DEB); \
	judge mypy $(SOURCES); \
	MYPYPATH=$(DEB) judge mypy $(DEB); \
	judge lint-imports --no-logo --config pyproject.toml; \
	[[ -z $$failed ]]

format: setup ## put the source in shape
	@$(PYTHON) -m ruff check --fix --quiet $(SOURCES) $(DEB) || true
	@$(PYTHON) -m ruff format $(SOURCES) $(DEB)

bench: setup ## measure against the numbers to reach and against peers
	@$(PYTHON) -m benchmarks.run $(BENCH_ARGS)

reliability: setup setup-broker ## put faults of every kind into updates, count, write the page
	@$(PYTHON) -m tests.reliability --write docs/reliability.md $(RELIABILITY_ARGS)

board-powercut: setup setup-broker ## cut the power of an emulated ARM64 board in updates, count
	@$(PYTHON) -m tests.board.powercut --write $(BOARD_ARGS)

board: setup setup-broker deb ## flash, boot, update and cut a whole emulated ARM64 board
	@$(PYTHON) -m tests.board.whole --write $(BOARD_ARGS)

docs: setup-docs ## the documentation as a site, in build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict
	@echo "build/site/index.html: open it in a browser, or copy build/site to any web server"

deb: setup ## Debian packages of the agent for all boards, in dist/
	@$(PYTHON) $(DEB)/build.py $(DEB_ARGS)

deb-locks: setup ## choose the packages' wheels anew, from pyproject.toml and constraints/
	@$(PYTHON) $(DEB)/locks.py $(DEB_ARGS)

setup: ## only set up .venv
	@python=$$($(DEV)/find-python.sh 3.11 3.12 3.13) || { \
	    echo "make: no Python 3.11 to 3.13 with venv was found; install one" \
	         "(Debian: apt-get install python3-venv)" >&2; exit 1; }; \
	$(DEV)/make-venv.sh $(VENV) "$$python" $(HOST_EXTRAS) constraints/host.txt $(TORCH)

# The environments of the device's tests, one for each interpreter that is found.
setup-devices:
	@for version in 3.10 3.13; do \
	    if python=$$($(DEV)/find-python.sh $$version); then \
	        $(DEV)/make-venv.sh .venv-py$${version/./} "$$python" $(DEVICE_EXTRAS) \
	            constraints/device.txt; \
	    else echo "== Python $$version was not found: the device's tests do not run on it"; fi; \
	done
	@if python=$$($(DEV)/find-python.sh 3.11 3.10); then \
	    $(DEV)/make-venv.sh .venv-tflite "$$python" tflite,images,test constraints/tflite.txt; \
	else echo "== Python 3.11 was not found: nothing runs on tflite-runtime"; fi

setup-tensorflow: ## set up .venv-tensorflow, where Keras models and SavedModels are read
	@python=$$($(DEV)/find-python.sh 3.11 3.12 3.13) || { \
	    echo "make: no Python 3.11 to 3.13 with venv was found; install one" >&2; exit 1; }; \
	$(DEV)/make-venv.sh .venv-tensorflow "$$python" keras constraints/tensorflow.txt

setup-docs:
	@python=$$($(DEV)/find-python.sh 3.11 3.12 3.13) || { \
	    echo "make: no Python 3.11 to 3.13 with venv was found; install one" >&2; exit 1; }; \
	$(DEV)/make-venv.sh .venv-docs "$$python" docs constraints/docs.txt

setup-targets: setup ## set up .venv-targets: the vendors' tools that `make test` asks
	@EDGE_TARGETS=$${EDGE_TARGETS:-$(CURDIR)/.venv-targets} $(PYTHON) -m converters.cli setup-target $(TARGETS)

setup-broker:
	@if [[ $(SYSTEM) != 0 ]]; then $(DEV)/install-mosquitto.sh; $(DEV)/install-tools.sh; fi

clean: ## remove what was produced; environments stay
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environments too
	@rm -rf .venv .venv-*
