# Every target sets up what it needs in $(VENV). `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
WORKERS ?= auto
SEEDS ?= 2000
PYTHONS ?= 3.11 3.12 3.13 3.14 3.15

.DEFAULT_GOAL := help
.PHONY: help demo demo-import test coverage test-all test-oldest lint format types bench backlog sim soak stress loops crash crash-import servers \
	relay-faults demo-relay conformance compat-suite docs accessibility dashboard pictures package clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

docs: $(VENV)/.docs ## the documentation, in site/; fails on broken links and on public names without a docstring
	$(BIN)/python -m website.build

package: $(VENV)/.package ## the wheel and the sdist, in dist/, checked as a user gets them
	$(BIN)/python -m website.package

accessibility: docs ## axe and screenshots of some pages, at the width of a desk and of a phone; needs Chromium and npm
	npm install --silent --no-save --prefix build/axe axe-core@4.14.1
	$(BIN)/python -m website.accessibility build/axe/node_modules/axe-core/axe.min.js build/screenshots

dashboard: $(VENV)/.dev ## the Grafana dashboard, from the names of the metrics
	$(BIN)/python -m website.dashboard

pictures: $(VENV)/.dev ## the pictures of the local endpoint; needs Chromium
	$(BIN)/python -m tests.devserver.screenshots docs/images

demo: $(VENV)/.demo ## a day of shop events, delivered to an endpoint on this machine (ARGS="--outage 60")
	@$(BIN)/python examples/demo.py $(ARGS)

demo-relay: $(VENV)/.dev ## web processes, relays and Valkey on this machine, some of them killed: nothing is lost (ARGS="--seconds 60")
	@$(BIN)/python examples/demo_relay.py $(ARGS)

demo-import: $(VENV)/.dev ## a shop's history from files, interrupted once and resumed (ARGS="--orders 20000")
	@$(BIN)/python examples/demo_import.py $(ARGS)

test: $(VENV)/.dev ## the tests (ARGS="-k flush"; WORKERS=0 runs them in one process)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

coverage: $(VENV)/.dev ## the tests, and which lines and branches they run; fails below the floor in pyproject.toml
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses $(WORKERS) --dist worksteal -m "not untraced" $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --sort=cover

test-all: ## the tests on each Python that is claimed (PYTHONS="3.11 3.14")
	@for version in $(PYTHONS); do \
		$(MAKE) --no-print-directory test PYTHON=python$$version VENV=.venv-$$version ARGS="$(ARGS)" || exit 1; \
	done

test-oldest: ## the tests with the oldest versions of our dependencies that are claimed
	@$(MAKE) --no-print-directory .venv-oldest/.dev VENV=.venv-oldest
	.venv-oldest/bin/python -m pip install --quiet $$(.venv-oldest/bin/python -m tests.support.oldest)
	.venv-oldest/bin/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

lint: $(VENV)/.dev ## format, lint, and which file may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

format: $(VENV)/.dev ## put the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(VENV)/.dev ## mypy and pyright, over the package and tests/typing
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.dev ## speed and memory, side by side with other SDKs (ARGS="--quick")
	$(BIN)/python -m benchmarks $(ARGS)

backlog: $(VENV)/.dev ## a million messages on disk, and how a client goes on with them
	$(BIN)/python -m benchmarks.backlog $(ARGS)

sim: $(VENV)/.dev ## many seeded runs under a virtual clock (SEEDS=20000)
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

soak: $(VENV)/.dev ## a million messages through a hundred outages
	$(BIN)/python -m tests.soak $(ARGS)

stress: $(VENV)/.dev ## threads, loops and signals against one client, in real time (ARGS="--minutes 10 --signals --loop uvloop")
	$(BIN)/python -m tests.stress $(ARGS)

loops: $(VENV)/.dev ## threads whose loops run and stop share one client, in real time (ARGS="--seeds 200")
	$(BIN)/python -m tests.loops $(ARGS)

crash: $(VENV)/.dev ## kills, power losses and bit flips against the spool
	$(BIN)/python -m tests.spool.crash $(ARGS)

crash-import: $(VENV)/.dev ## one import, killed twenty times at random rows (ARGS="--kills 100 --seed 7")
	$(BIN)/python -m tests.importing.crash $(ARGS)

servers: $(VENV)/.dev ## real servers, workers and programs: accepted, received, twice, lost (ARGS="Celery")
	$(BIN)/python -m tests.servers $(ARGS)

relay-faults: $(VENV)/.dev ## the relay's faults with processes, real leases and each server that there is (10 minutes)
	RELAY_SERVERS=all $(BIN)/python -m pytest tests/relay/*.py --timeout 600 -s $(ARGS)

conformance: $(VENV)/.dev ## how this and Segment's own SDKs keep to the rules, as a table (ARGS="--rows" says what was found)
	$(BIN)/python -m tests.conformance --table $(ARGS)

compat-suite: $(VENV)/.dev ## the official Python SDK's own tests, on segment_async.compat
	$(BIN)/python -m tests.conformance.official_suite

clean: ## remove the environments and caches
	rm -rf .venv .venv-* build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "segment_async needs Python 3.11 or later: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[cli,speedups]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

$(VENV)/.package: pyproject.toml | $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --group package
	@touch $@
