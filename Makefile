# Every target sets itself up: a virtual environment in .venv, then pip. Needs make and python3 (3.11 or later) with venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-slow check format bench check-bench coverage mutate clean
.NOTPARALLEL:

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# Stamps, touched last: an installation that was interrupted is made again.
.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit("quota needs Python 3.11 or later: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@echo "making .venv"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.core: .venv/.made pyproject.toml
	@echo "installing quota (attrs alone) into .venv"
	@$(PIP) -e .
	@touch $@

.venv/.%: .venv/.made pyproject.toml
	@echo "installing quota[$*] into .venv: a minute the first time"
	@$(PIP) -e '.[$*]'
	@touch .venv/.core $@

# PgBouncer for the tests: the system's, or Debian's package laid into .venv, for which nobody has to be root.
.venv/.pgbouncer: .venv/.made
	@PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null || tests/fetch_pgbouncer .venv/pgbouncer \
	  || echo "no PgBouncer is found or had from apt: the tests behind poolers run on their stand-in alone"
	@touch $@

demo: .venv/.core  ## the walk-through on the real library, then a log replayed
	@$(BIN)/python -m quota demo

test: .venv/.test .venv/.pgbouncer  ## the suite, in minutes, on all processors
	@$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: .venv/.test .venv/.pgbouncer  ## the long campaigns
	@QUOTA_PROFILE=$${QUOTA_PROFILE:-nightly} $(BIN)/python -m pytest -m slow -n auto --dist worksteal

check: .venv/.test  ## ruff and mypy --strict
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: .venv/.test  ## what ruff can put right by itself
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

bench: .venv/.test .venv/.bench  ## measure against the floor and the peers; writes benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks

check-bench: .venv/.test .venv/.bench  ## hold the code to benchmarks/budget.toml
	@$(BIN)/python -m benchmarks --check

coverage: .venv/.test .venv/.pgbouncer  ## branch coverage of floors 0 to 2 with the memory store: 100 % or it fails
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q -n auto --dist worksteal
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report --skip-covered

# Few examples of each property: what kills a mutant should be a test that says why.
mutate: .venv/.mutate  ## mutation testing of the rule, the periods and the plans: no survivor that is not argued in place
	@QUOTA_PROFILE=$${QUOTA_PROFILE:-smoke} $(BIN)/mutmut run
	@! $(BIN)/mutmut results | grep -E ': (survived|no tests)$$'

clean:  ## remove everything that make made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* mutants
