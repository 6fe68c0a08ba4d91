# One word a task. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
SPLIT_PORT ?= 8080

.DEFAULT_GOAL := help
.PHONY: help run up test test-long lint audit load bench chaos eval clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; call: make PYTHON=/path/to/python3.12 ..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed (on Debian: apt install python3-venv)"; exit 2; }
	@echo "installing loadsplit into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

run: $(VENV)/installed ## serve the example on http://127.0.0.1:8000, with its business API and, without an LLM key, the LLM simulator
	@exec $(BIN)/loadsplit serve --config examples/customer_service/workflow.json --port $(PORT) --demo

up: $(VENV)/installed ## the split on this machine behind Nginx on http://127.0.0.1:8080, with the simulators
	@exec $(BIN)/loadsplit up --config examples/customer_service/workflow.json --port $(SPLIT_PORT) --demo

test: $(VENV)/installed-dev ## install what tests need (nginx, redis, postgresql, chromium) and run them
	@scripts/install-test-deps
	@$(BIN)/python -m pytest -n 3 --dist loadfile

test-long: $(VENV)/installed-dev ## the tests that take minutes
	@scripts/install-test-deps
	@$(BIN)/python -m pytest -m long

lint: $(VENV)/installed-dev ## ruff, mypy, and the dependencies: whether they fit together and none is known to be unsafe
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pip check --disable-pip-version-check --quiet
	@$(BIN)/python scripts/audit

audit: $(VENV)/installed-dev ## the same look at the dependencies, which fails where the advisories cannot be reached
	@$(BIN)/python scripts/audit --strict

load: $(VENV)/installed-dev ## a 30 s Locust run against a split that it starts
	@scripts/install-test-deps
	@$(BIN)/python -m loadtests.load

bench: $(VENV)/installed-dev ## every promise beside its reference, as a report with pictures: make bench BENCH="--full --messages FILE.csv"
	@scripts/install-test-deps
	@$(BIN)/python -m loadtests.bench $(BENCH)

chaos: $(VENV)/installed-dev ## kill, freeze and restart everything under load, then prove that nothing is lost or doubled: make chaos CHAOS="--seed 1"
	@scripts/install-test-deps
	@$(BIN)/python -m loadtests.chaos $(CHAOS)

eval: $(VENV)/installed ## the bank example's rules on labelled messages held back: make eval MESSAGES=FILE.csv
	@test -n "$(MESSAGES)" || { echo "give MESSAGES=FILE.csv with the columns text,category"; exit 2; }
	@$(BIN)/python -m standalone.commands.evaluate examples/bank/workflow.json --messages $(MESSAGES) --off-topic

clean: ## remove the environment and local data
	rm -rf $(VENV) .data build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
