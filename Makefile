# Every target makes its own environment: `make demo` on a fresh machine is all it takes.

PYTHON ?= python3
EXTRAS := all,test,dev,docs
STAMP := .venv/.installed
BIN := .venv/bin
# Tests are many and small: several processes of one thread each use the cores better than threads do.
TEST_PROCESSES ?= auto
TEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test nightly check coverage docs format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## train on digits, calibrate, show 13 widths, extract one
	$(BIN)/python examples/digits.py

test: $(STAMP) ## unit tests, laws, end-to-end tests, and the examples in docstrings, README and docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --maxprocesses 4 --dist worksteal $(TEST_ARGS)

nightly: $(STAMP) ## tests that take too long for every time; the laws of conversion on ten times as many random networks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly -n $(TEST_PROCESSES) --maxprocesses 4 tests
	SLIMMABLE_EXAMPLES=500 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/laws/test_conversion_laws.py -n $(TEST_PROCESSES) --maxprocesses 4

check: $(STAMP) ## style, formatting, types, import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

coverage: $(STAMP) ## write docs/coverage.md anew: about half an hour, goes on where it stopped
	OMP_NUM_THREADS=1 $(BIN)/slimmable inspect --all --json runs/coverage.json --resume --output docs/coverage.md

docs: $(STAMP) ## build the documentation into site/; a broken link or reference is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(STAMP) ## put the sources into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the other targets made, the environment included
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist site

# Compiling all that PyTorch brings takes over a minute; what is used is compiled when it is imported first, and kept
# whatever the environment says: compiling it in every process would take far longer.
unexport PYTHONDONTWRITEBYTECODE

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "slimmable needs Python 3.11 or later, found " \
	    + sys.version.split()[0] + "; cure: make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-compile \
	    --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@
