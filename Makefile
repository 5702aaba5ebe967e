# Two commands are enough: `make demo` and `make test`. Both set themselves up; after the first time nothing is downloaded.
#   PYTHON=python3.12 make demo          another Python than python3
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
CASES ?= 300
SEED ?= 1
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
AIRFLOW := .venv-airflow
AIRFLOW_STAMP := $(AIRFLOW)/.installed
LOCKS := setup.py pyproject.toml src/pipeline/jars.sha256 src/pipeline/ivy.xml

.PHONY: help install demo test airflow torture check clean

help:
	@echo 'make install   the environment in .venv and the jars, once'
	@echo 'make demo      everything on this machine: Kafka, seeded events, both layers, the proof'
	@echo 'make test      the test suite, with real Kafka and Postgres, and some crashes; in two processes'
	@echo 'make airflow   Airflow in .venv-airflow, once (300 MB); make test then runs its DAG, too'
	@echo 'make torture   crashes by the hundred: CASES=300 SEED=1'
	@echo 'make check     format, lint, types'
	@echo 'make clean     remove the environment and what was built'

install: $(STAMP)

demo: $(STAMP)
	@$(BIN)/pipeline demo

test: $(STAMP)
	@$(BIN)/python -m pytest --numprocesses=2 --dist=loadgroup --no-loadscope-reorder

airflow: $(AIRFLOW_STAMP)

torture: $(STAMP)
	@$(BIN)/python tests/crash/torture.py --cases $(CASES) --seed $(SEED)

check: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) $(AIRFLOW) build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Java and Python are looked at before anything is made: pip's and Spark's own words for what is missing are obscure.
$(STAMP): $(LOCKS)
	@command -v '$(PYTHON)' >/dev/null || { \
	  echo "make: there is no $(PYTHON). Install Python 3.10 or later, or name one: make PYTHON=/path/to/python3" >&2; exit 3; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "make: Python 3.10 or later is needed; $(PYTHON) is $$('$(PYTHON)' -V 2>&1). Name another: make PYTHON=/path/to/python3" >&2; exit 3; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 3; }
	@PYTHONPATH=src '$(PYTHON)' -m pipeline.java
	@'$(PYTHON)' -m venv $(VENV)
	@echo 'make: installing into $(VENV) (the first time about 700 MB are downloaded)'
	@PIP_USE_PEP517=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,dev]' || { \
	  echo "make: pip failed, its reason is above. Check the network; behind a proxy set HTTPS_PROXY; with a mirror set PIP_INDEX_URL. Then run make again." >&2; exit 3; }
	@$(BIN)/python -m pipeline.jars
	@touch $@

# Airflow pins what the pipeline pins otherwise, so it has an environment of its own, and calls the other's `pipeline`.
$(AIRFLOW_STAMP): orchestration/airflow-constraints.txt
	@'$(PYTHON)' -m venv $(AIRFLOW)
	@echo 'make: installing into $(AIRFLOW) (the first time about 100 MB are downloaded)'
	@$(AIRFLOW)/bin/python -m pip install --quiet --disable-pip-version-check -c $< apache-airflow slack-sdk
	@touch $@
