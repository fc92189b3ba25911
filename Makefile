# `make` prints what there is to do. Every target sets up what it needs: a virtual environment with the exact versions of
# requirements.lock, redone when that file changes.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV ?= .venv
COHORT ?=
DATA ?=
OUT ?=
PARAMS ?=
NOTEBOOKS ?=
EXTRAS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
PACKAGES := $(patsubst %/pyproject.toml,%,$(sort $(wildcard packages/*/pyproject.toml)))
EDITABLE := --editable . $(addprefix --editable ,$(PACKAGES))
# What a user gives reaches the program as it is, with any apostrophe, dollar sign and space in it.
option = $(if $(value $2),$1 '$(subst ','\'',$(value $2))')
RUN = $(BIN)/python -m helpers run $(NOTEBOOKS) $(call option,--cohort,COHORT) $(call option,--data,DATA) \
	$(call option,--out,OUT) $(if $(EXTRAS),--extras) $(call option,-p,PARAMS)
# MPLBACKEND=Agg, which clusters set, would leave every figure out of JupyterLab.
unexport MPLBACKEND
# torch.profiler writes lines of its own otherwise.
export KINETO_LOG_LEVEL := 99

# An environment belongs to the folder that it was set up for: in a copied or renamed clone it is set up again.
HERE := $(shell pwd -P)
ifneq ($(shell cat $(READY) 2> /dev/null),$(HERE))
.PHONY: $(READY)
endif

.NOTPARALLEL:
.PHONY: help run lab site test quick lint all unit slow notebooks browser chromium tools figures outputs lock clean

help: ## print this list
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "make run takes COHORT=brats2021 DATA=/folder OUT=/folder NOTEBOOKS=\"01 02\" EXTRAS=1 PARAMS=\"NAME=value NAME=value\""

run: $(READY) ## execute the notebooks in order; results and an index page go to outputs/<cohort>
	@$(RUN)

lab: $(READY) ## open JupyterLab on the notebooks
	@$(BIN)/python -m jupyterlab notebooks

site: $(READY) ## build the site from the committed outputs into outputs/site; nothing is executed
	@$(BIN)/python -m sphinx -q -W --keep-going -j 2 -c docs . outputs/site
	@echo "outputs/site/index.html"

test: lint all browser ## everything that CI runs: lint, unit tests, notebooks on a tiny cohort, the viewer in a browser

quick: lint unit ## lint and unit tests

lint: $(READY) ## style of code and notebooks, spelling, prose
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m codespell_lib
	@$(BIN)/proselint --config .proselintrc.json check README.md CONTRIBUTING.md MODEL_CARD.md docs
	@echo "lint: no complaints"

# One session for all that takes long, so that no core waits; each file stays with one worker, the longest begin first.
all: $(READY) tools
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/notebooks tests/slow tests/unit \
		$(addsuffix /tests,$(PACKAGES))

unit: $(READY) ## unit tests, and those of the packages
	@$(BIN)/python -m pytest -n 2 --dist worksteal tests/unit $(addsuffix /tests,$(PACKAGES))

slow: $(READY) tools ## tests with real processes: training that is killed and resumed, the local cloud, fuzzing
	@$(BIN)/python -m pytest -n 2 tests/slow

# nnU-Net's own check of a dataset, in a folder of its own and without what it needs to train.
tools:
	@test -d $(VENV)/tools/nnunet || $(PIP) install --no-deps --target $(VENV)/tools/nnunet nnunetv2==2.8.1 acvl-utils==0.2.6 \
		batchgenerators==0.25.5 blosc2==4.14.1 ndindex==1.10.1 numexpr==2.14.2 || echo "nnU-Net cannot be installed from here"

notebooks: $(READY) ## execute the notebooks on a tiny cohort
	@$(BIN)/python -m pytest tests/notebooks

browser: $(READY) chromium ## notebooks and viewer in a real JupyterLab and chromium, which is installed where that is allowed
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/browser

# Without a browser the tests skip with the reason, in CI they fail.
chromium:
	@command -v chromium chromium-browser google-chrome > /dev/null || \
	if command -v apt-get > /dev/null && [ "$$(id -u)" = 0 ]; then echo "Installing chromium ..."; \
	{ apt-get -qq update && apt-get -qq install -y chromium; } > /dev/null 2>&1 || echo "chromium cannot be installed from here"; \
	else echo "The browser tests need chromium; on Debian and Ubuntu: sudo apt-get install chromium"; fi

figures: $(READY) chromium ## rebuild the figures of the READMEs
	@$(BIN)/python images/packages.py
	@$(BIN)/python -m tests.browser.film

outputs: $(READY) ## refresh the outputs in the committed notebooks by one full run with their defaults
	@$(BIN)/python .ci/outputs.py

lock: $(READY) ## add what pyproject.toml asks for and write the versions of .venv to requirements.lock
	@$(PIP) install --editable ".[dev]" $(addprefix --editable ,$(PACKAGES))
	@{ echo "# Exact versions that CI tests, as .venv holds them. Made by \`make lock\`; do not edit by hand."; \
	$(BIN)/python -m pip list --format=freeze --exclude-editable \
	| sed -e 's/+[a-z0-9.]*$$//' | grep -Evi '^(pip|setuptools|wheel|triton|nvidia-|cuda-)' | LC_ALL=C sort -f; } > requirements.lock
	@pwd -P > $(READY)
	@echo "requirements.lock: $$(grep -c == requirements.lock) packages"

clean: ## remove outputs/ (your trainings too), data/phantom and caches; keeps .venv and the rest of data/
	@rm -rf outputs data/phantom .pytest_cache .ruff_cache .hypothesis
	@find helpers packages tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml $(addsuffix /pyproject.toml,$(PACKAGES))
	@command -v "$(PYTHON)" > /dev/null || { echo "There is no $(PYTHON) here; install Python 3.11 or newer," \
		"or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1)," \
		"this project needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment;" \
		"on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Setting up $(VENV) from requirements.lock: about 2 minutes, longer on a slow connection ..."
	@$(PIP) install "$$(grep '^torch==' requirements.lock)"
	@$(PIP) install -r requirements.lock
	@$(PIP) install --no-deps $(EDITABLE)
	@$(BIN)/python -m ipykernel install --sys-prefix --name python3 --display-name "Brain-tumour segmentation" > /dev/null
	@$(BIN)/python .ci/environment.py
	@pwd -P > $@
