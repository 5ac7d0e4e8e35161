# `make` alone lists the targets. Everything runs in .venv; a stamp in it says what is installed.
.NOTPARALLEL:
.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help demo test slow goldens airflow check house mutants bench dist docker format lint-fix clean cortex

VENV  := .venv
BIN   := $(VENV)/bin
CORE  := $(VENV)/.core
CHECK := $(VENV)/.check
TEST  := $(VENV)/.test
FLOW  := build/airflow
PIP   := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := PYSPARK_PYTHON='$(CURDIR)/$(BIN)/python' PYSPARK_DRIVER_PYTHON='$(CURDIR)/$(BIN)/python' $(BIN)/python -m pytest
ARGS  ?=

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(CORE)  ## install the core and run the demonstration
	$(BIN)/eigenmill demo $(ARGS)

test: $(TEST)  ## fast tests with coverage; ARGS='-k gram' goes to pytest
	$(PYTEST) -n auto --dist loadfile --cov --cov-report=term $(ARGS)

slow: $(TEST) $(FLOW)/.installed cortex  ## the slow tests, and every law with examples drawn at random
	HYPOTHESIS_PROFILE=random $(PYTEST) -m 'slow or hypothesis' $(ARGS)

goldens: $(TEST)  ## tests/golden again, by the wheel that is kept there; ARGS='models scans' for some rooms
	$(BIN)/python -m tests.golden.make $(ARGS)

docker: $(CORE)  ## build the images and run both clusters from them (as root; no Docker daemon needed)
	$(BIN)/python docker/verify.py $(ARGS)

airflow: $(FLOW)/.installed  ## Airflow in an environment of its own, for the test of the DAG

cortex:  ## a compiler and an emulator of Cortex-M chips, for the test of exported C
	scripts/compilers.sh cortex

check: $(CHECK)  ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint docker/Dockerfile

house: $(CHECK)  ## rooms, their sizes, the imports between them, and circles
	$(BIN)/python scripts/house.py

mutants: $(TEST)  ## small defects, and whether a test notices; ARGS='--seed 7 --count 20'
	$(BIN)/python -m scripts.mutants $(ARGS)

bench: $(TEST)  ## benchmarks; ARGS goes to them
	$(BIN)/python -m benchmarks $(ARGS)

dist: $(CORE)  ## dist/eigenmill.zip, for spark-submit --py-files
	$(BIN)/python scripts/zip_packages.py dist/eigenmill.zip src/eigenmill

format: $(CHECK)  ## rewrite the code: safe lint fixes, then format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint-fix: format  ## the same as format

clean:  ## remove .venv, caches and build output
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf .coverage .coverage.* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CORE): pyproject.toml constraints.txt scripts/venv.sh scripts/apt_install.sh
	scripts/venv.sh $(VENV)
	$(PIP) --editable .
	@touch $@

$(FLOW)/.installed: constraints-airflow.txt scripts/venv.sh
	scripts/venv.sh $(FLOW)
	$(FLOW)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-airflow.txt \
		'apache-airflow==3.3.*'
	@touch $@

$(CHECK): $(CORE)
	$(PIP) --group check
	@touch $@

$(TEST): $(CORE) scripts/java.sh scripts/compilers.sh
	scripts/java.sh
	scripts/compilers.sh
	$(PIP) --editable '.[all]' --group test
	@touch $@
