# Two commands are enough: `make demo` and `make test`. Both set themselves up; after the first time nothing is downloaded.
#   PYTHON=python3.12 make demo          another Python than python3
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
CASES ?= 300
KILLS ?= 60
SEED ?= 1
EVENTS ?= 1000000
ROUNDS ?= 5
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARCHIVE := $(BIN)/python -m pipeline.archiving
AIRFLOW := .venv-airflow
AIRFLOW_STAMP := $(AIRFLOW)/.installed
WHEELS := supply/requirements.lock
AIRFLOW_WHEELS := supply/airflow.lock
LOCKS := setup.py pyproject.toml $(WHEELS) src/pipeline/jars.sha256 src/pipeline/ivy.xml
PIP := python -m pip --disable-pip-version-check
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command 'make lock'

.PHONY: help install demo test airflow torture cluster bench check lock sbom clean

help:
	@echo 'make install   the environment in .venv, the jars, and what lets sessions start quickly, once'
	@echo 'make demo      everything on this machine: Kafka, seeded events, both layers, the proof'
	@echo 'make test      the test suite, with real Kafka and Postgres, and some crashes; in two processes'
	@echo 'make airflow   Airflow in .venv-airflow, once (300 MB); make test then runs its DAG, too'
	@echo 'make torture   crashes by the hundred: CASES=300 KILLS=60 SEED=1'
	@echo 'make cluster   every job on a standalone cluster on loopback, whose workers are killed'
	@echo 'make bench     this, plain Spark, a Polars loop and DuckDB in turn: EVENTS=1000000 ROUNDS=5'
	@echo 'make check     format, lint, types'
	@echo 'make lock      write supply/*.lock anew, after a change of a version'
	@echo 'make sbom      what all this is made of, as CycloneDX, in sbom.json'
	@echo 'make clean     remove the environment and what was built'

install: $(STAMP)
	@$(ARCHIVE)

demo: $(STAMP)
	@$(BIN)/pipeline demo

test: $(STAMP)
	@$(BIN)/python -m pipeline.jars --with s3
	@$(ARCHIVE)
	@$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

airflow: $(AIRFLOW_STAMP)

torture: install
	@$(BIN)/python tests/crash/torture.py --cases $(CASES) --kills $(KILLS) --seed $(SEED)

cluster: install
	@$(BIN)/python tests/cluster/suite.py

bench: install
	@$(BIN)/python benchmarks/run.py --events $(EVENTS) --rounds $(ROUNDS)

lock: $(STAMP)
	@$(LOCK) --universal --python-version 3.11 --extra test --extra dev setup.py --output-file $(WHEELS)
	@$(LOCK) --python-version 3.11 --no-deps orchestration/airflow-constraints.txt --output-file $(AIRFLOW_WHEELS)

sbom: $(STAMP)
	@$(BIN)/python supply/sbom.py --output sbom.json

check: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) $(AIRFLOW) build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Each file that pip takes must have a SHA-256 of the lock. What comes as source is built by the setuptools of the lock: left to
# itself pip would fetch another one, unseen.
BUILD := sed -n '/^setuptools==/,/[^\]$$/p' $(WHEELS)
FROM_LOCK := install --quiet --require-hashes --no-deps
PIP_FAILED := { echo "make: pip failed, its reason is above. A file with another hash than that of the lock is not installed. \
  Else check the network; behind a proxy set HTTPS_PROXY; with a mirror set PIP_INDEX_URL. Then run make again." >&2; exit 3; }

# Java and Python are looked at before anything is made: pip's and Spark's own words for what is missing are obscure.
$(STAMP): $(LOCKS)
	@command -v '$(PYTHON)' >/dev/null || { \
	  echo "make: there is no $(PYTHON). Install Python 3.11 or later, or name one: make PYTHON=/path/to/python3" >&2; exit 3; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: Python 3.11 or later is needed; $(PYTHON) is $$('$(PYTHON)' -V 2>&1). Name another: make PYTHON=/path/to/python3" >&2; exit 3; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 3; }
	@PYTHONPATH=src '$(PYTHON)' -m pipeline.java
	@'$(PYTHON)' -m venv $(VENV)
	@echo 'make: installing into $(VENV) (the first time about 700 MB are downloaded)'
	@$(BUILD) >$(VENV)/build.lock
	@$(BIN)/$(PIP) $(FROM_LOCK) -r $(VENV)/build.lock || $(PIP_FAILED)
	@PIP_USE_PEP517=1 $(BIN)/$(PIP) $(FROM_LOCK) --no-build-isolation -r $(WHEELS) || $(PIP_FAILED)
	@$(BIN)/$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pipeline.jars
	@touch $@

# Airflow pins what the pipeline pins otherwise, so it has an environment of its own, and calls the other's `pipeline`.
$(AIRFLOW_STAMP): $(AIRFLOW_WHEELS)
	@'$(PYTHON)' -m venv $(AIRFLOW)
	@echo 'make: installing into $(AIRFLOW) (the first time about 100 MB are downloaded)'
	@$(AIRFLOW)/bin/$(PIP) $(FROM_LOCK) --only-binary :all: -r $(AIRFLOW_WHEELS) || $(PIP_FAILED)
	@touch $@
