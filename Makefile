# PYTHON: the interpreter that builds .venv. VENV=: use PYTHON as it is and install nothing.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# Experiments at a time: most of a quick one is compilation, which keeps one core busy. With an accelerator: 1.
JOBS ?= 2

ifeq ($(strip $(VENV)),)
RUN := $(PYTHON)
READY :=
else
RUN := $(VENV)/bin/python
READY := $(VENV)/.installed
endif

# LAPACK's threads and XLA's spin against each other on few cores; the benchmarks leave every library its own default.
reproduce test: export OPENBLAS_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help reproduce test lint bench peers docs clean

help:
	@echo 'make reproduce  every experiment at its quick preset, then results/index.html (ARGS=--strict: fail on a failed claim;'
	@echo '                JOBS=1: one at a time, as an accelerator needs)'
	@echo 'make test       the whole test suite, doctests included (ARGS="tests/linalg -x": part of it)'
	@echo 'make lint       ruff check and ruff format --check'
	@echo 'make bench      timings against other libraries'
	@echo 'make peers      panel estimators of other packages beside ours, each in an environment of its own in .peers'
	@echo 'make docs       the documentation in site/, with the figures of results/ where they are'
	@echo 'make clean      remove .venv, caches and built pages; results/ stays'
	@echo 'PYTHON=python3.12 chooses the interpreter; VENV= uses it as it is and installs nothing.'

# The page is written even when a claim fails: that is when one wants to read it.
reproduce: $(READY)
	@status=0; $(RUN) -m experiments run --all --preset quick --jobs $(JOBS) $(ARGS) || status=$$?; \
	if [ $$status -le 1 ]; then $(RUN) -m experiments report || status=$$?; fi; exit $$status

test: $(READY)
	$(RUN) -m pytest $(ARGS)

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

bench: $(READY)
	$(RUN) -m experiments.benchmarks $(ARGS)

peers: $(READY)
	$(RUN) -m experiments.benchmarks.panel_peers --environments .peers --proposition-99 $(ARGS)

# The variable silences the theme's notice about its successor.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict $(ARGS)
	@test -d results || echo 'No results yet: make reproduce, then make docs, fills the gallery.'
	@echo 'Open site/index.html, or serve it with search: $(RUN) -m http.server --directory site'

clean:
	rm -rf .venv .peers build dist site .pytest_cache .ruff_cache .hypothesis
	find jaxspec experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

ifneq ($(READY),)
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "jaxspec needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment (Debian: apt install python3-venv). To use $(PYTHON) as it is: make VENV= $(MAKECMDGOALS)" >&2; exit 1; }
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,lint,bench,docs]'
	@touch $@
endif
