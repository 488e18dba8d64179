# Everything here is also written out as plain shell lines in README.md.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
BENCHMARKS := comparison deep_training initialize monitor reports signal_propagation sweep

.PHONY: demo test lint bench clean

demo: $(VENV)/.examples
	$(RUN) -m examples.train experiment=demo

test: lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist worksteal

lint: $(VENV)/.dev
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

bench: $(VENV)/.dev
	set -e; for name in $(BENCHMARKS); do $(RUN) -m benchmarks.$$name; done

clean:
	rm -rf $(VENV) build dist outputs multirun .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A stamp per set of extras, so that what is installed follows pyproject.toml.
$(VENV)/.dev $(VENV)/.examples: $(VENV)/.%: pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@
