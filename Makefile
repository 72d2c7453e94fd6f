# Two commands for a new user: `make study` and `make test`. Everything else is for those who work on elide.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export OMP_NUM_THREADS ?= 1

.PHONY: study test test-gpu lint calibrate-cpu docs clean

study: $(VENV)/.base
	$(RUN) -m sim study --html out/study.html

test: $(VENV)/.test lint
	$(RUN) -m pytest

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test-gpu: $(VENV)/.test
	$(RUN) -m pytest -m gpu

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "elide needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# what the simulator needs: no torch
$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

# the engine and the tests on top
$(VENV)/.test: $(VENV)/.base
	$(PIP) --editable '.[engine,test]'
	touch $@

clean:
	rm -rf $(VENV) out .numba_cache
