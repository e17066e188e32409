# Every target sets itself up: a virtual environment in .venv, then pip. Needs make and python3 (3.11 or later) with venv.
# Programs are started by their interpreter: a script's first line cannot name a folder that has a blank in it.
PYTHON ?= python3
TESTS ?=
# Half as many workers again as there are processors: many a test waits for a server or a deadline.
WORKERS ?= $$($(BIN)/python -c 'import os; print(os.cpu_count() * 3 // 2)')
PYTHONS ?= 3.11 3.12 3.13
PYTHON_FT ?= python3.13t
SECONDS ?= 60
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-slow test-browser test-terraform test-pythons test-freethreaded test-all check format bench check-bench coverage mutate figures docs audit fuzz clean
.NOTPARALLEL:

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

# Stamps, touched last: an installation that was interrupted is made again.
$(VENV)/.made:
	@"$(PYTHON)" -c 'import sys; sys.exit("quota needs Python 3.11 or later: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@echo "making $(VENV)"
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.made pyproject.toml
	@echo "installing quota (attrs alone) into $(VENV)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.%: $(VENV)/.made pyproject.toml
	@echo "installing quota[$*] into $(VENV): a minute the first time"
	@$(PIP) -e '.[$*]'
	@touch $(VENV)/.core $@

# PgBouncer for the tests: the system's, or Debian's package laid into the environment, for which nobody has to be root.
$(VENV)/.pgbouncer: $(VENV)/.made
	@PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null || tests/support/engines/fetch_pgbouncer $(VENV)/pgbouncer \
	  || echo "no PgBouncer is found or had from apt: the tests behind poolers run on their stand-in alone"
	@touch $@

# Chromium of Debian's packages and an accessibility checker of npm's, laid into the environment.
$(VENV)/.chromium: $(VENV)/.made
	@tests/support/engines/fetch_chromium $(VENV)/chromium
	@cd $(VENV)/chromium && npm pack --silent axe-core >/dev/null && tar -xzf axe-core-*.tgz --strip-components=1 package/axe.min.js && rm axe-core-*.tgz
	@touch $@

# The second type checker, of npm's, where there is node.
$(VENV)/.pyright: $(VENV)/.made
	@command -v node >/dev/null && command -v npm >/dev/null && mkdir -p $(VENV)/pyright && cd $(VENV)/pyright && \
	  npm pack --silent pyright >/dev/null && tar -xzf pyright-*.tgz --strip-components=1 && rm pyright-*.tgz || \
	  echo "no node, or nothing to be had of npm: types are checked by mypy alone"
	@touch $@

demo: $(VENV)/.core  ## the walk-through on the real library, then a log replayed
	@$(BIN)/python -m quota demo

test: $(VENV)/.test $(VENV)/.pgbouncer $(VENV)/.pyright  ## the suite, in minutes, on all processors; TESTS=tests/test_period.py for a part of it
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

test-slow: $(VENV)/.test $(VENV)/.pgbouncer $(VENV)/.pyright  ## the long campaigns
	@QUOTA_PROFILE=$${QUOTA_PROFILE:-nightly} $(BIN)/python -m pytest -m slow -n $(WORKERS) --dist worksteal $(TESTS)

test-browser: $(VENV)/.test $(VENV)/.chromium  ## the usage page in a headless Chromium: its looks, its requests, its accessibility
	@$(BIN)/python -m pytest -m browser tests/web/test_browser.py

test-terraform: $(VENV)/.test  ## the control plane by Terraform's own AWS provider; QUOTA_TF_PLUGINS=a folder of plugins
	@command -v terraform >/dev/null || { echo "terraform is not found"; exit 1; }
	@$(BIN)/python -m pytest -m terraform tests/aws/control/test_terraform.py

test-pythons:  ## the suite on each of 3.11, 3.12 and 3.13 that is found on the path or by pyenv
	@failed=; found=; for version in $(PYTHONS); do \
	  python=; for candidate in "$$(command -v python$$version)" "$$(pyenv root 2>/dev/null)"/versions/$$version.*/bin/python; do \
	    [ -z "$$python" ] && "$$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" 2>/dev/null && python=$$candidate; \
	  done; \
	  if [ -z "$$python" ]; then echo "python$$version: not found"; continue; fi; \
	  found="$$found $$version"; echo "python$$version: $$python"; \
	  $(MAKE) PYTHON="$$python" VENV=.venv-$$version test || failed="$$failed $$version"; \
	done; echo "ran on:$$found; failed on:$${failed:- none}"; [ -n "$$found" ] && [ -z "$$failed" ]

# Its wheels are few: attrs and pytest are enough for what threads do in memory and on SQLite. PYTHON_GIL=0 keeps it free.
test-freethreaded:  ## receipts of threads on a free-threaded Python, and what threads gain there; PYTHON_FT=its path
	@"$(PYTHON_FT)" -c 'import sys; sys.exit(getattr(sys, "_is_gil_enabled", lambda: True)())' 2>/dev/null || \
	  { echo "$(PYTHON_FT) is no free-threaded Python: make test-freethreaded PYTHON_FT=..."; exit 1; }
	@$(MAKE) PYTHON="$(PYTHON_FT)" VENV=.venv-freethreaded .venv-freethreaded/.core
	@.venv-freethreaded/bin/python -m pip install --quiet --disable-pip-version-check pytest 'hypothesis<6.140' # later ones are built with Rust
	@PYTHON_GIL=0 .venv-freethreaded/bin/python -m pytest tests/ledger/test_receipts.py tests/ledger/test_threads.py tests/stores/sqlite/test_processes.py
	@PYTHON_GIL=0 .venv-freethreaded/bin/python -m benchmarks.threads

test-all:  ## the suite on every Python that is found, threads on a free-threaded one; says which were not
	@failed=; $(MAKE) test-pythons PYTHONS="$(PYTHONS) 3.14" || failed=1; \
	if "$(PYTHON_FT)" -c 'import sys; sys.exit(getattr(sys, "_is_gil_enabled", lambda: True)())' 2>/dev/null; \
	  then $(MAKE) test-freethreaded || failed=1; else echo "free-threaded Python ($(PYTHON_FT)): not found"; fi; \
	[ -z "$$failed" ]

check: $(VENV)/.test  ## ruff and mypy --strict
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check
	@$(BIN)/python -m mypy

format: $(VENV)/.test  ## what ruff can put right by itself
	@$(BIN)/python -m ruff check --fix-only
	@$(BIN)/python -m ruff format

bench: $(VENV)/.test $(VENV)/.bench  ## measure against the floor and the peers; writes benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks

check-bench: $(VENV)/.test $(VENV)/.bench  ## hold the code to benchmarks/budget.toml
	@$(BIN)/python -m benchmarks --check

coverage: $(VENV)/.test $(VENV)/.pgbouncer  ## branch coverage of what is embedded, with the memory store: 100 % or it fails
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m coverage run -m pytest -q -n auto --dist worksteal
	@$(BIN)/python -m coverage combine -q
	@$(BIN)/python -m coverage report --skip-covered

# Few examples of each property: what kills a mutant should be a test that says why.
mutate: $(VENV)/.mutate  ## mutation testing of the rule, the periods and the plans: no survivor that is not argued in place
	@QUOTA_PROFILE=$${QUOTA_PROFILE:-smoke} $(BIN)/python $(BIN)/mutmut run
	@! $(BIN)/python $(BIN)/mutmut results | grep -E ': (survived|no tests)$$'

figures: $(VENV)/.test $(VENV)/.mutate  ## docs/figures.md: what the tests do, counted as they are collected
	@$(BIN)/python tests/support/figures.py

fuzz:  ## each parser of what strangers send, with coverage, SECONDS each (60)
	@$(MAKE) VENV=.venv-fuzz .venv-fuzz/.fuzz
	@.venv-fuzz/bin/python tests/support/fuzz.py $(SECONDS) $(TESTS)

docs:  ## the site, in site/; a warning fails
	@$(MAKE) VENV=.venv-docs .venv-docs/.docs
	@.venv-docs/bin/python -m sphinx -W --keep-going -q -b html docs site
	@echo "site/index.html"

# In an environment of its own: what is wanted of docutils by the checker of the README is not what awscli wants.
audit:  ## what an index asks of the distributions, known faults of dependencies, and the sources read for weak spots
	@$(MAKE) VENV=.venv-audit .venv-audit/.audit
	@rm -rf .venv-audit/dist && .venv-audit/bin/python -m hatchling build -d .venv-audit/dist >/dev/null
	@.venv-audit/bin/python -m twine check --strict .venv-audit/dist/*
	@.venv-audit/bin/python -m bandit -q -c pyproject.toml -r src
	@.venv-audit/bin/python tests/support/audit.py

clean:  ## remove everything that make made
	rm -rf .venv .venv-* site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* mutants
