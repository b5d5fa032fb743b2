# Every target is one visible command line; each sets up its own environment when that is missing.
PYTHON ?= python3
PY     := .venv/bin/python
MODEL  ?= tiny
SEED   ?= 1
SEEDS  ?= 1-5
DIRECTION ?= forward
ARGS   ?=
CONFIG ?=
# test files at once; a process of its own takes about a gigabyte
JOBS   ?= 2
TASKS  ?=
SHAPE  ?= small
RUNS   ?= runs
# the built-in items ask about tiny's own world; another model gets the published ones
DATA   ?= $(if $(filter tiny,$(MODEL)),sample,hub)

# $(call given,NAME,WORDS): the words where NAME is asked for, and not only the default above
given   = $(if $(filter file,$(origin $1)),,$2)

.PHONY: help train eval experiment compare report claims tiny test test-quick test-trackers bench bench-trl lint site
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F':.*  ## ' '/^[a-z-]+:.*  ## / {printf "make %-13s %s\n", $$1, $$2}' Makefile

train: .venv/run  ## train MODEL (default tiny): make train MODEL=llama3.2-3b SEED=1 [DIRECTION=reverse]; a small one is MODEL=qwen2.5-0.5b; or what a file says: make train CONFIG=my.toml [SEED=2]
	$(PY) -m minihmx train $(if $(CONFIG),--config '$(CONFIG)' $(call given,MODEL,'$(MODEL)') $(call given,DIRECTION,--direction $(DIRECTION)) $(call given,SEED,--seed $(SEED)),'$(MODEL)' --direction $(DIRECTION) --seed $(SEED)) $(ARGS)

eval: .venv/evals  ## benchmarks on MODEL and on RUNs of it: make eval MODEL=tiny RUN=runs/tiny/forward/seed-1 [TASKS=bbq,toxigen] [LIMIT=100]
	$(PY) -m minihmx eval '$(MODEL)' --tasks '$(or $(TASKS),all)' --data '$(DATA)' --adapter base $(foreach run,$(RUN),--adapter '$(run)') $(if $(LIMIT),--limit $(LIMIT)) $(ARGS)

experiment: .venv/report .venv/evals  ## both directions of SEEDS, selection, benchmarks, comparison: make experiment [MODEL=tiny] [SEEDS=1-5] [TASKS=all] [ARGS=--dry-run]
	$(PY) -m minihmx experiment '$(MODEL)' --seeds '$(SEEDS)' $(if $(TASKS),--tasks '$(TASKS)') --data '$(DATA)' $(if $(LIMIT),--limit $(LIMIT)) $(ARGS)

compare: .venv/report  ## forward against reverse from RUNS: make compare [RUNS=runs] [ARGS="--paper --plot"]
	$(PY) -m minihmx compare '$(RUNS)' $(ARGS)

report: .venv/report  ## one page of RUNS, to be opened in a browser: make report [RUNS=runs] [ARGS="--out FILE | --markdown"]
	$(PY) -m minihmx report '$(RUNS)' $(ARGS)

claims: .venv/report  ## the paper's statements on its own tables, or on an experiment: make claims [RUNS=runs]
	$(PY) -m minihmx claims $(call given,RUNS,'$(RUNS)') $(ARGS)

tiny: .venv/run  ## build the bundled model anew, 5100 steps on two threads: the better part of an hour
	$(PY) scripts/tiny/build.py --threads 2 --out minihmx/tiny

test: .venv/dev  ## all tests
	$(PY) -m pytest -n $(JOBS) --dist loadfile

test-quick: .venv/dev  ## the tests that are not marked slow: about four minutes
	$(PY) -m pytest -n $(JOBS) --dist loadfile -m "not slow"

test-trackers: .venv/dev .venv/log  ## the tests of `minihmx log`, with wandb and trackio, which .venv/dev leaves out
	$(PY) -m pytest tests/results/test_log.py

bench: .venv/run  ## speed and memory on this machine in one table, with the floor of a step; some minutes, nothing else running
	$(PY) scripts/bench.py $(ARGS)

bench-trl: .venv/bench  ## a step beside TRL's: make bench-trl [SHAPE=qwen3-0.6b]
	$(PY) scripts/bench_step.py --against trl --shape '$(SHAPE)' --json $(ARGS)

lint: .venv/dev  ## ruff and mypy
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

site: .venv/docs  ## README and docs/ as pages that need no network: site/index.html
	$(PY) -m mkdocs build --strict

# pip shows its progress; docs/install.md says what each step downloads and how large it is.
PIP := $(PY) -m pip install --disable-pip-version-check -c constraints.txt

.venv/run: pyproject.toml constraints.txt
	@echo "Into .venv: torch and what a run needs. 0.2 GB with torch's CPU build; 2.8 GB with its CUDA build, which pip takes on a usual Linux (docs/install.md has the choice)."
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) -e .
	touch $@

.venv/evals: .venv/run
	@echo "Into .venv: what benchmarks need, 59 MB."
	$(PIP) -e '.[evals]'
	touch $@

.venv/report: .venv/run
	@echo "Into .venv: what tables and the report need, 60 MB."
	$(PIP) -e '.[report]'
	touch $@

.venv/log: .venv/run
	@echo "Into .venv: TensorBoard, wandb and trackio, 63 MB."
	$(PIP) -e '.[log]'
	touch $@

.venv/docs: .venv/run
	@echo "Into .venv: MkDocs, 5 MB."
	$(PIP) -e '.[docs]'
	touch $@

.venv/dev: .venv/run
	@echo "Into .venv: the tests' packages and ruff and mypy, 204 MB."
	$(PIP) -e '.[dev]'
	touch $@

.venv/bench: .venv/run constraints-bench.txt
	@echo "Into .venv: TRL, PEFT, transformers and lm-evaluation-harness, to be measured beside."
	$(PY) -m pip install --disable-pip-version-check -c constraints-bench.txt -e '.[bench]'
	touch $@
