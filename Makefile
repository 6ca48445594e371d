# Needs Python 3.11 or newer and make. Choose the interpreter with `make PYTHON=python3.12 ...`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --quiet --constraint constraints.txt --editable
DECLARED := pyproject.toml setup.cfg constraints.txt matrix/common.txt

# `make chaos`
MINUTES ?= 1
SCENARIO ?= A

.DELETE_ON_ERROR:
.PHONY: help demo demo-check test chaos chaos-check matrix bench lint format clean

help: ## what there is to make
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /	/'

demo: $(VENV)/demo.stamp ## run the example shop's day, then serve its admin until Ctrl-C
	$(BIN)/python -m example_site.demo

demo-check: $(VENV)/demo.stamp ## the same without serving: exits 0 when every task is accounted for
	$(BIN)/python -m example_site.demo --check

test: $(VENV)/test.stamp ## the whole suite, four processes, each with servers of its own; ARGS="-k name" narrows it
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: $(VENV)/test.stamp ## kills workers, servers and connections for a minute and accounts for every task; MINUTES=30 SEED=7 SCENARIO=B
	$(BIN)/python -m chaos --minutes $(MINUTES) --scenario $(SCENARIO) $(if $(SEED),--seed $(SEED)) $(ARGS)

chaos-check: $(VENV)/test.stamp ## two fixed seeds of a minute each, one for each scenario, with twenty kills of each kind
	$(BIN)/python -m chaos --seed 1 --scenario A --least-kills 20
	$(BIN)/python -m chaos --seed 2 --scenario B --least-kills 20

matrix: $(VENV)/matrix.stamp ## most tests with other versions of Celery, Django and Python, as far as they are here; ARGS="-e celery54" narrows
	$(BIN)/tox run $(ARGS)

bench: $(VENV)/test.stamp ## beside bare Celery and django-celery-results, for hours; ARGS="--only drain" narrows it
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/test.stamp ## style, types, import contracts, missing migrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m django makemigrations --check --dry-run --settings tests.settings --pythonpath .

format: $(VENV)/test.stamp ## lets ruff lay out the code and cure what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## removes the virtual environment and what tools left behind
	rm -rf $(VENV) .tox build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/demo.stamp: $(VENV)/python.stamp $(DECLARED)
	$(INSTALL) '.[demo]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/python.stamp $(DECLARED)
	$(INSTALL) '.[demo,test,lint]'
	@touch $@

$(VENV)/matrix.stamp: $(VENV)/python.stamp $(DECLARED)
	$(INSTALL) '.[matrix]'
	@touch $@

# PIP_USER and PIP_TARGET of a global pip configuration would install beside the environment.
export PIP_USER := no
unexport PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV PYTHONHOME
# Without bytecode each of the many processes that tests and chaos start compiles the whole app again.
unexport PYTHONDONTWRITEBYTECODE

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"expected Python 3.11 or newer, got {sys.version.split()[0]}; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@
