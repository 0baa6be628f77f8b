# Every target sets up .venv by itself, from locks/dev.txt (with uv when it is there, else with pip).
# `make` alone lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.locked
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help tools demo test lint type sim bench interop docs check proto lock clean

help: ## List the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): locks/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pytikv needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.11")'
	@echo "setting up $(VENV)"
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --clear --python $(PYTHON) $(VENV) && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r locks/dev.txt && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --editable . ; \
	else \
	  $(PYTHON) -m venv --clear $(VENV) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/dev.txt && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . ; \
	fi
	@touch $@

tools: ## Install the Debian programs that some tests and measures run (Prometheus, valgrind); without root it only names them
	@missing=; for tool in prometheus valgrind; do command -v $$tool >/dev/null 2>&1 || missing="$$missing $$tool"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else echo "not installed:$$missing; tests and measures that need them are skipped"; fi

demo: $(STAMP) ## Load a real data set into the embedded store and read it back
	$(BIN)/pytikv demo $(ARGS)

test: $(STAMP) ## Run the tests (ARGS="-k raw" passes on to pytest)
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP) ## Style, import rules, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python tools/gen_proto.py --check

type: $(STAMP) ## mypy --strict and pyright
	$(BIN)/mypy
	$(BIN)/pyright

sim: $(STAMP) ## Seeded simulations of raw data and transactions (SEEDS=1000, ARGS="--kind txn")
	$(BIN)/python -m pytikv.testing.simulate $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

bench: $(STAMP) ## Measure against the floor and the other Python clients (ARGS=--quick)
	$(BIN)/python benchmarks/run.py $(ARGS)

interop: $(STAMP) ## Foreign clients against our server (those whose toolchain is here)
	$(BIN)/python interop/run.py $(ARGS)

docs: $(STAMP) ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

check: lint type test ## What a change must pass, but for interop

proto: $(STAMP) ## Generate src/pytikv/proto from proto/
	$(BIN)/python tools/gen_proto.py

lock: ## Pin the dependencies anew (needs uv)
	$(PYTHON) tools/lock.py --upgrade

clean: ## Remove what the targets made
	rm -rf $(VENV) .cache site .pytest_cache .mypy_cache .ruff_cache
