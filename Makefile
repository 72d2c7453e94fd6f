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

# measure, fit and validate on the CPU engine, end to end: what a GPU's campaign does, in a few minutes
CALIBRATED := out/calibrate-cpu
CPU_PLANS := dense swift_kv skip_decode:speedup=2 ffn_skip:share=0.25,cold_layers=1 swift_kv+skip_decode:speedup=2
CPU_RUN := --model $(CALIBRATED)/model --device cpu --plans $(CPU_PLANS)

calibrate-cpu: $(VENV)/.test
	rm -rf $(CALIBRATED)
	$(RUN) -m engine tiny $(CALIBRATED)/model
	$(RUN) -m calibration measure $(CPU_RUN) --out $(CALIBRATED)
	$(RUN) -m calibration fit $(CALIBRATED) --out $(CALIBRATED)/coefficients.json \
		--engine-out $(CALIBRATED)/engine.json
	$(RUN) -m calibration validate-engine $(CPU_RUN) --coefficients $(CALIBRATED)/coefficients.json \
		--engine $(CALIBRATED)/engine.json --requests 40 --repeats 2 --lengths uniform --slots 8 --budget 64 \
		--max-context 96 --out $(CALIBRATED)/validation.json

# what a GPU is asked, one run of at most ten minutes each (docs/howto-run-on-a-gpu.md); DRY=1 rehearses on a CPU
OUT ?= out/gpu
MODEL ?= llama-3.1-8b
GPU_RUN := $(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) -m calibration.campaign
GPU_RUNS := gpu-check gpu-soak gpu-sanitize gpu-ceilings gpu-kernels gpu-measure gpu-bench gpu-serve
GPU_RUNS += gpu-quality-train gpu-quality-run gpu-quality-speed
.PHONY: $(GPU_RUNS)

$(GPU_RUNS): gpu-%:
	$(GPU_RUN) $* --model $(MODEL) --out $(OUT) $(if $(DRY),--dry)

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

docs: $(VENV)/.docs
	$(RUN) docs/build.py

$(VENV)/.docs: $(VENV)/.base
	$(PIP) --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) out .numba_cache
