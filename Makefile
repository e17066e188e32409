# Every target sets itself up: a venv in .venv, then pip. Needs python3 (3.11 or later), its venv module, and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test test-slow check bench check-bench coverage mutate clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.venv/pyvenv.cfg:
	$(PYTHON) -m venv .venv

.venv/.core: .venv/pyvenv.cfg pyproject.toml
	@echo "installing quota (attrs alone)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/.%: .venv/pyvenv.cfg pyproject.toml
	@echo "installing quota[$*]: this takes a minute the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch .venv/.core $@

demo: .venv/.core  ## the mission on the real library, then a day of traffic
	@$(BIN)/python -m quota demo

test: .venv/.test  ## the suite, in minutes
	@$(BIN)/python -m pytest

test-slow: .venv/.test  ## the long campaigns
	@QUOTA_PROFILE=push $(BIN)/python -m pytest -m slow

check: .venv/.test  ## ruff and mypy --strict
	@$(BIN)/ruff check
	@$(BIN)/mypy

bench: .venv/.test .venv/.bench  ## measure against the floor and the peers
	@$(BIN)/python -m benchmarks

check-bench: .venv/.test .venv/.bench  ## hold the code to benchmarks/budget.toml
	@$(BIN)/python -m benchmarks --check

coverage: .venv/.test  ## branch coverage of floors 0 to 2, 100 % or it fails
	@$(BIN)/coverage run -m pytest -q
	@$(BIN)/coverage report

mutate: .venv/.mutate  ## mutation testing of the rule, the periods and the plans
	@$(BIN)/mutmut run
	@$(BIN)/mutmut results

clean:  ## everything that make made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage mutants
