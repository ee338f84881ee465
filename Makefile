# `make demo` and `make test` set up everything they need: Python 3.10 or newer and a package index are enough.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/ready

.PHONY: demo test lint suite bench chaos clean

demo: $(READY)
	$(VENV)/bin/manyheads demo demo

test: lint suite

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

suite: $(READY)
	$(VENV)/bin/python -m pytest

# Faults of every kind, in numbers for which the suite has no time: about 25 minutes. See docs/reliability.md.
chaos: $(READY)
	$(VENV)/bin/python -m tests.faults.power_loss
	$(VENV)/bin/python -m tests.faults.kills
	$(VENV)/bin/python -m tests.faults.calls
	$(VENV)/bin/python -m tests.faults.interrupts
	$(VENV)/bin/python -m tests.faults.fuzzing --inputs 20000

# The short version of every benchmark, on images and features that it makes itself: a few minutes, on a quiet machine.
# What the figures in docs/performance.md were measured with stands there.
bench: $(READY)
	$(VENV)/bin/python -m benchmarks.extraction --short
	$(VENV)/bin/python -m benchmarks.heads --short
	$(VENV)/bin/python -m benchmarks.storage --short
	$(VENV)/bin/python -m benchmarks.growth --short
	$(VENV)/bin/python -m benchmarks.streaming $${TMPDIR:-/tmp} --short

# compat: the checkout is put on the path, so that a user's own folder named `cache` does not hide the package.
# Installed anew only when the requirements change.
$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "manyheads needs Python 3.10 or newer: make PYTHON=python3.12 …" >&2; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); torch alone is several GB, so the first time takes some minutes."
	$(VENV)/bin/python -m pip install --quiet --config-settings editable_mode=compat --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis demo
