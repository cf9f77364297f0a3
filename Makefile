# Every verb does its own set-up first (scripts/setup.sh); it is fast when nothing has changed.
#   make run [BACKEND=auto|sim|vkernel|mininet] [SCENARIO=...]   the quickstart in sim and in the kernel in virtual time, side by side
#   make test [PYTEST_ARGS=...]    the test suite, fast part first
#   make test-long                 what the suite does once or small, again at length: soak, many seeds, 32 hosts (CI does)
#   make bench [ONLY=a,b]          the measured figures of README and docs
#   make kernel                    build the kernel in virtual time that the vkernel backend boots (once, some minutes)
#   make fuzz [INPUTS=1000000]     coverage-guided fuzzing of what unauthenticated peers reach (needs atheris)
#   make docs                      the documentation site, into site/ (generated pages first; a dead link fails)
#   make lint                      ruff and mypy, as in CI
#   make format | notebooks | clean

BIN := .venv/bin
SCENARIO ?= topologies/quickstart.toml
BACKEND ?= auto
PYTEST_ARGS ?=
# A worker for each CPU, and a file of tests to one worker; with PYTEST_ARGS="-n 0" one test after the other. Emulation is never shared.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile
ONLY ?=
INPUTS ?= 1000000
comma := ,
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup run test test-long bench fuzz kernel docs lint format notebooks clean

help:
	@sed -n '2,10s/^#//p' Makefile

setup:
	@scripts/setup.sh

run: setup
	@scripts/quickstart.sh "$(BACKEND)" "$(SCENARIO)"

test: setup
	@scripts/kernel.sh
	@scripts/setup.sh browser
	@scripts/setup.sh open-vswitch
	@echo "== fast tests" && $(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m "not slow and not long and not emulation" $(PYTEST_ARGS)
	@echo "== slow tests" && $(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m "slow and not long and not emulation" $(PYTEST_ARGS)
	@echo "== notebooks" && $(BIN)/python -m pytest -q --nbmake analysis
	@echo "== emulation tests (Mininet)" && $(BIN)/python -m pytest -q -m "emulation and not long" $(PYTEST_ARGS) -n 0

test-long: setup
	@scripts/kernel.sh
	@echo "== long tests" && $(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m "long and not emulation" $(PYTEST_ARGS)
	@echo "== long emulation tests (Mininet)" && $(BIN)/python -m pytest -q -m "long and emulation" $(PYTEST_ARGS) -n 0

bench: setup
	@$(BIN)/python -m benchmarks $(subst $(comma), ,$(ONLY))

fuzz: setup
	@$(BIN)/python scripts/fuzz/fuzz.py $(INPUTS)

kernel: setup
	@scripts/kernel.sh --must

docs: setup
	@$(BIN)/python scripts/docs/generate.py && NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet && echo "site/index.html"

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: setup
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

notebooks: setup
	@$(BIN)/python -m pytest -q --nbmake analysis

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
