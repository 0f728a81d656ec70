# The two commands that set up everything: `make demo` and `make test`.
# Any Python 3.11 or 3.12; name another with `make PYTHON=… demo`.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
  && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
KILLS ?= 200
SEEDS ?= 1000
# Processes that run tests side by side. Each file of tests stays in one of them.
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# The Python files that differ from the main branch, committed or not.
CHANGED = $(shell { git diff --name-only --diff-filter=d $$(git merge-base HEAD main 2>/dev/null || echo HEAD); \
  git ls-files --others --exclude-standard; } 2>/dev/null | grep '\.py$$' | sort -u)

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint-changed hooks simulate chaos mutation bench lint format clean

help: ## What there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Rowvec needs Python 3.11 or 3.12 on the PATH"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/demo: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), once; this takes a minute or two"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/dev: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), once; this takes a minute or two"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/demo

demo: $(VENV)/demo ## A live PostgreSQL table becomes, and stays, a searchable collection
	@$(BIN)/rowvec demo

test: $(VENV)/dev lint ## Lint, types, layers, and all tests
	@$(BIN)/python -m pytest $(PARALLEL)

# Fewer random inputs than `make test` tries, and no test that starts a server.
test-fast: $(VENV)/dev lint-changed ## In two minutes: lint of what changed, unit, properties, 100 simulated runs
	@$(BIN)/python -m tests.simulation --seeds 100
	@ROWVEC_TEST_EXAMPLES=50 ROWVEC_TEST_INPUTS=10000 \
	  $(BIN)/python -m pytest -q $(PARALLEL) tests/unit tests/properties tests/fuzz

lint-changed: $(VENV)/dev
	@if [ -n "$(CHANGED)" ]; then \
	  $(BIN)/ruff check $(CHANGED) && $(BIN)/ruff format --check $(CHANGED) && \
	  $(BIN)/mypy && $(BIN)/lint-imports; \
	else echo "No Python file differs from the main branch: nothing to lint"; fi

chaos: $(VENV)/dev ## Kill real flows with kill -9, KILLS times (200), and judge all that readers saw
	@$(BIN)/python -m tests.chaos --kills $(KILLS)

mutation: $(VENV)/dev ## Take out one guard at a time, and see a test go red for each
	@$(BIN)/python -m tests.mutation

simulate: $(VENV)/dev ## Everything that can go wrong, in SEEDS simulated runs
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS)

# Quix Streams asks for an older confluent-kafka than Rowvec: it gets a folder of its own.
$(VENV)/quix: | $(VENV)/dev
	@rm -rf $@.new
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --target $@.new quixstreams==3.28.1
	@mv $@.new $@

bench: $(VENV)/dev $(VENV)/quix ## Measure everything, and write benchmarks/README.md; leave the machine alone
	@$(BIN)/python -m benchmarks --quix $(VENV)/quix

lint: $(VENV)/dev ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

hooks: $(VENV)/dev ## Lint before each commit, from now on
	@$(BIN)/pre-commit install

format: $(VENV)/dev ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
