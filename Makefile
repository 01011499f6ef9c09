# Every target sets up what it needs; `make` alone says what there is.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RECIPES := $(sort $(basename $(notdir $(wildcard experiments/*.flags))))
FLAGS ?=
RECIPE ?= digits
# The files that take longest are started first: see tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# What `make torture` runs: tests that have a long form.
TORTURE := tests/test_kills.py tests/test_damage.py tests/test_full_disk.py \
  tests/test_weights_file.py tests/test_fuzz_pictures.py tests/test_fuzz_flags.py \
  tests/test_determinism.py tests/test_folding.py tests/test_frozen_split.py \
  tests/test_peers.py tests/test_distribution.py

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all torture check format recipes compare tensorboard bench clean $(RECIPES)

help: ## list the targets
	@grep -hE '^[a-z_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo "and every recipe is a target of its name: make recipes"

$(BIN)/.installed: setup.cfg pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

setup: $(BIN)/.installed ## make .venv and install everything into it

run: digits ## the main job, on data that comes inside the dependencies

test: check ## the formatter, the linter, the types, and the fast tests: 6 minutes on two cores
	$(PYTEST) -m "not slow"

test-all: check ## the same with all tests, as plain pytest runs them; FLAGS="-m slow" for the slow ones
	$(PYTEST) $(FLAGS)

check: setup ## the formatter, the linter and the types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

torture: setup ## kills, damage, full disks and odd inputs by the thousand; prints the counts
	$(PYTEST) --torture $(TORTURE)

format: setup ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

recipes: ## list the recipes, a line each
	@for name in $(RECIPES); do \
	  printf '%-31s %s\n' "$$name" "$$(sed -n '1s/^# //p' experiments/$$name.flags)"; done

$(RECIPES): setup
	$(BIN)/python -m tl_keras.main --flagfile=experiments/$@.flags $(FLAGS)

compare: setup ## methods side by side: make compare RECIPE=mnist_to_usps FLAGS=--seeds=0,1,2
	$(BIN)/python -m tl_keras.compare --flagfile=experiments/$(RECIPE).flags $(FLAGS)

$(BIN)/.benchmarks: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

bench: setup $(BIN)/.benchmarks ## ratios to Keras and PyTorch; make bench FLAGS=--quick takes minutes
	$(BIN)/python -m experiments.benchmarks $(FLAGS)

tensorboard: setup ## look at everything in runs/, on 127.0.0.1 only
	$(BIN)/tensorboard --logdir=runs --host=127.0.0.1

clean: ## remove the virtual environment and the caches, not runs/
	rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
