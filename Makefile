# Everything runs in .venv, which any target makes or refreshes by itself. Needs Python 3.11 or newer, and make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.setup-stamp
PYTHON_DIRS := src $(foreach dir,tests benchmarks examples,$(if $(wildcard $(dir)/*.py),$(dir)))
BENCHMARKS := $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))

# Words to add to a command: make demo ARGS="--port 9000", make test ARGS="-k resume -x".
ARGS :=

.PHONY: help setup demo test check bench soak docs

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## Make .venv and install rtsync and its tools into it.

demo: $(STAMP) ## Serve the recorded market and watch it in this terminal.
	$(VENV)/bin/rtsync demo --tail $(ARGS)

test: $(STAMP) ## Run all tests but the soak.
	$(PYTHON) -m pytest -n 2 --dist worksteal $(ARGS)

check: $(STAMP) ## Lint, format check, strict types.
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy $(PYTHON_DIRS)

bench: $(STAMP) ## Run every benchmark, one after the other.
	@for name in $(BENCHMARKS); do echo "== $$name"; $(PYTHON) -m benchmarks.$$name $(ARGS); done

soak: $(STAMP) ## Run the tests that take minutes.
	$(PYTHON) -m pytest -m soak -o faulthandler_timeout=7200 $(ARGS)

docs: $(STAMP) ## Build the documentation into site/, links checked.
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

# ---- .venv ----------------------------------------------------------------------------------------------------------

$(STAMP): pyproject.toml constraints.txt | $(PYTHON)
	$(PYTHON) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

# Debian ships `venv` without the pip it needs inside. The pip outside can put one in (no root needed); failing that, too,
# the package that Debian left out is installed.
$(PYTHON):
	@for candidate in python3 python3.11 python3.12 python3.13 python3.14; do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$${python:-}" ]; then echo "rtsync needs Python 3.11 or newer" >&2; exit 1; fi; \
	whole() { "$$python" -m venv --clear $(VENV) >/dev/null; }; \
	filled() { "$$python" -m venv --clear --without-pip $(VENV) && "$$python" -m pip --python $(PYTHON) install --quiet pip; }; \
	packaged() { \
		as_root=(); if [ "$$(id -u)" != 0 ]; then as_root=(sudo); fi; \
		"$${as_root[@]}" apt-get update -qq && "$${as_root[@]}" apt-get install -y -qq python3-venv </dev/null && whole; \
	}; \
	if ! { whole || filled || packaged; }; then \
		rm -rf $(VENV); echo "cannot make $(VENV): install python3-venv (or pip) and try again" >&2; exit 1; \
	fi
