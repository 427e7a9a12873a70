# A machine needs Python >= 3.11 and make; `make help` lists what there is.
#   PYTHON   the interpreter that makes the environment (default: the first one >= 3.11 on PATH)
#   VENV     where the environment is (default: .venv)
#   ARGS     options of `make bench` and `make peers` (for example ARGS=--quick), of
#            `make test-graphs`, and of pytest in `make test`
#   COVERAGE 0: `make test` neither measures branches nor applies the gate

PYTHON   ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV     ?= .venv
COVERAGE ?= 1
RUNS     ?= 50
ARGS     ?=

BIN   := $(VENV)/bin
SEAMS := backend/tests/integration/resilience
PIP   := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help demo demo-graph test gate test-staged test-graphs lint format types contracts imports wheel bench peers repeat workflow clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | while IFS="$$(printf '\t')" read -r name text; \
	do printf 'make %-11s  %s\n' "$$name" "$$text"; done

demo: $(VENV)/.installed-jobs ## a service in trouble, with holdfast and without; 300 orders and a kill half-way
	$(BIN)/python examples/demo.py
	$(BIN)/python examples/orders_demo.py

demo-graph: $(VENV)/.installed-cli,jobs ## a build graph: an order fails, one hangs, the process is killed, the rest is done
	$(BIN)/python examples/graph_demo.py

test: $(VENV)/.installed-test ## every test in random order, and the gate: 95 % of the policies' branches
ifeq ($(COVERAGE),0)
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest --cov=holdfast --cov-report=term-missing:skip-covered $(ARGS)
	@$(MAKE) --no-print-directory gate
endif

gate: $(VENV)/.installed-test ## the gate alone, on what the last `make test` measured
	$(BIN)/python -m coverage json --quiet -o build/coverage.json
	$(BIN)/python .ci/branches.py build/coverage.json

test-staged: $(VENV)/.installed-test ## the jobs from the ground up: stores, parts, seams, end to end; stops where it fails
	$(BIN)/python -m backend.tests.staged

test-graphs: $(VENV)/.installed-test ## 2,000 random graphs in each store, 500 interleavings, a crash at every call (ARGS)
	$(BIN)/python -m backend.tests.graphs $(ARGS)

lint: $(VENV)/.installed-dev ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/.installed-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/.installed-dev ## mypy and pyright, both strict
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

contracts: $(VENV)/.installed-dev ## code, contracts, tests and examples agree
	$(BIN)/python -m holdfast.testing.contracts

imports: $(VENV)/.installed-dev ## imports point down
	$(BIN)/lint-imports --no-logo --no-cache

wheel: $(VENV)/.installed-dev ## build the wheel, install it elsewhere, use it
	rm -rf build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel
	$(BIN)/python .ci/wheel.py build/wheel

bench: $(VENV)/.installed-bench ## the table of costs, beside the peers'
	$(BIN)/python -m benchmarks $(ARGS)

peers: ## jobs beside DBOS, Procrastinate and Celery, in an environment of their own
	@$(MAKE) --no-print-directory $(VENV)-peers/.installed-bench-jobs VENV=$(VENV)-peers
	$(VENV)-peers/bin/python -m benchmarks.jobs_peers $(ARGS)

repeat: $(VENV)/.installed-test ## the seam suite RUNS times (50), each in an order of its own
	@for seed in $$(seq 1 $(RUNS)); do \
	  $(BIN)/python -m pytest $(SEAMS) -q -p randomly --randomly-seed=$$seed || { echo "failed with --randomly-seed=$$seed"; exit 1; }; \
	done; echo "$(RUNS) runs passed"

workflow: $(VENV)/.installed-test ## write the list of test files into .github/workflows/test.yml
	$(BIN)/python .ci/workflow.py

clean: ## remove environments, caches and products
	rm -rf .venv .venv-* build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find backend benchmarks examples .ci -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 on PATH; say which one: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is no Python >= 3.11; say another one: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "error: $(PYTHON) cannot make an environment; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.installed-%: $(BIN)/python pyproject.toml
	$(PIP) install -e '.[$*]'
	@touch $@
