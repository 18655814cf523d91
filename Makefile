# Two commands do everything on a machine with git, make and Python 3.11, 3.12 or 3.13:
#   make demo   the whole story on this machine        make test   the proof that it works
# The others are for people who work on Heliostat; see CONTRIBUTING.md.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SUITES := $(wildcard tests/unit tests/loading tests/processes tests/cases tests/sim tests/contract tests/fuzz tests/e2e)
# The loaders' tests need PyTorch. A CPU build by name: the plain version would, on some machines, be gigabytes of CUDA.
TORCH ?= torch==2.13.0+cpu
# The lock file names everything, so nothing needs to be resolved; what is installed is compiled on all cores together.
PIP_QUICK := -qq --disable-pip-version-check --no-deps --no-compile
ARGS ?=
PYTEST_ARGS ?=
# Where it is set, as in some containers, every process compiles every module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo check lint style types unit test test-full lives programs bench bench-loading format fuzz lock clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

setup: $(STAMP)  ## create .venv with everything in it (the other targets do this themselves)

$(STAMP): requirements.lock pyproject.toml
	@python=""; \
	supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; \
	for candidate in "$${PYTHON:-python3}" python3.13 python3.12 python3.11; do \
		if "$$candidate" -c "$$supported" 2>/dev/null; then \
			python="$$candidate"; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Heliostat needs Python 3.11, 3.12 or 3.13; python3 here is $$(python3 --version 2>&1 || true)." >&2; \
		echo "Install one of them and say where it is: make setup PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi; \
	if ! $(BIN)/python -c "import pip; $$supported" 2>/dev/null; then \
		echo "Creating $(VENV) with $$("$$python" --version)"; \
		"$$python" -m venv --clear $(VENV) || { \
			echo "$$python cannot create virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi
	@echo "Installing the pinned packages into $(VENV); the first time takes a minute or two"
	@$(BIN)/python -m pip install $(PIP_QUICK) --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install $(PIP_QUICK) --only-binary=:all: "$(TORCH)" 2>$(VENV)/torch.log || { \
		echo "pip finds no $(TORCH) for this Python, so the loaders' tests will be skipped (see $(VENV)/torch.log)."; \
		echo "Name an index that has it and run this again: PIP_EXTRA_INDEX_URL=URL make setup"; }
	@$(BIN)/python -m pip install $(PIP_QUICK) --no-build-isolation --no-index --editable .
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # of some packages a file is for another Python
	@touch $@

demo: $(STAMP)  ## the whole story: local Ray cluster, Git repository, rollout, rollback (ARGS= for the command's options)
	@exec $(BIN)/heliostat demo $(ARGS)

# Side by side: a part of the tests waits for processes and sockets, and the linters run on one core each.
check: $(STAMP)  ## the gate before each commit: lint, types, import rules, unit tests
	@$(MAKE) --jobs 2 --output-sync=target lint unit

lint: style types

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Fewer examples per property than in test-full: who has just changed something runs this again and again. Three at a
# time on two cores, for they wait a third of their time.
unit: $(STAMP)
	HELIOSTAT_EXAMPLES=$${HELIOSTAT_EXAMPLES:-10} $(BIN)/python -m pytest tests/unit -n 3 --dist worksteal -q $(PYTEST_ARGS)

# End-to-end tests take about half of the processor: replicas start, drain and are waited for. What is in no hurry takes
# the rest: types, unit tests, and tests in virtual time or with random inputs. What tells time by the clock runs before.
WORKERS ?= 3
UNHURRIED := $(wildcard tests/unit tests/cases tests/sim tests/fuzz)
TIMED := $(filter-out $(UNHURRIED),$(SUITES))
IDLE := $(shell command -v chrt >/dev/null && echo chrt --idle 0) nice -n 19
BESIDE := build/types.log build/unhurried.log

test: style programs  ## check, then cases, simulation, contracts and end-to-end tests on a real Ray cluster
	HELIOSTAT_EXAMPLES=$${HELIOSTAT_EXAMPLES:-10} $(BIN)/python -m pytest $(TIMED) -m "not ray and not slow" \
		-n $(WORKERS) --dist loadfile --durations=20 -q $(PYTEST_ARGS)
	@mkdir -p build
	@echo "Beside the following ones run the unit tests, those in virtual time, fuzzing and mypy; what they say comes last"
	@echo "($(BESIDE))"
	@$(IDLE) $(MAKE) types >$(word 1,$(BESIDE)) 2>&1 & types=$$!; \
	HELIOSTAT_EXAMPLES=$${HELIOSTAT_EXAMPLES:-10} $(IDLE) $(BIN)/python -m pytest $(UNHURRIED) -m "not ray and not slow" \
		-n 2 --dist worksteal --timeout 1500 --durations=20 -q $(PYTEST_ARGS) >$(word 2,$(BESIDE)) 2>&1 & unhurried=$$!; \
	trap 'kill $$types $$unhurried 2>/dev/null || true' EXIT; failed=0; \
	$(BIN)/python -m pytest $(SUITES) -m "ray and not slow" --durations=20 $(PYTEST_ARGS) || failed=$$?; \
	wait $$types || failed=$$?; wait $$unhurried || failed=$$?; cat $(BESIDE); exit $$failed

test-full: lint programs  ## test, and what takes longer
	HELIOSTAT_SEEDS=$${HELIOSTAT_SEEDS:-150} $(BIN)/python -m pytest $(SUITES) -m "not ray" -n $(WORKERS) --dist loadfile -q $(PYTEST_ARGS)
	$(BIN)/python -m pytest $(SUITES) -m ray $(PYTEST_ARGS)

fuzz: $(STAMP)  ## throw odd spec files, webhooks and commits at the parsers for ten minutes (FUZZ_SECONDS= for each kind)
	HELIOSTAT_FUZZ_SECONDS=$${FUZZ_SECONDS:-130} $(BIN)/python -m pytest tests/fuzz -q -s --timeout 3600 $(PYTEST_ARGS)

# Property by property on all workers, with new lives each time.
lives: $(STAMP)  ## random lives of services in virtual time, thousands of them (HELIOSTAT_SEEDS per property)
	HELIOSTAT_RANDOM=1 HELIOSTAT_SEEDS=$${HELIOSTAT_SEEDS:-160} $(BIN)/python -m pytest tests/sim/test_properties.py \
		tests/sim/test_rules_together.py -n $(WORKERS) --dist load -q $(PYTEST_ARGS)

programs:  ## what tests need of Debian (installed when root, else named; they are skipped without it)
	@tests/debian_packages.sh

bench: $(STAMP)  ## measure throughput, latency and footprint; prints tables for docs/benchmarks
	$(BIN)/python -m tests.bench $(ARGS)

bench-loading: $(STAMP)  ## measure loading beside other loaders (installs them under build); writes docs/benchmarks/loading.md
	$(BIN)/python -m tests.bench.loading $(ARGS)

format: $(STAMP)  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: $(STAMP)  ## pin the newest allowed versions of everything, for every supported Python
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" --quiet --output-file requirements.lock

clean:  ## remove .venv and all caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
